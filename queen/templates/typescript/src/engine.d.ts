// What the engine of componentize-js has beside the language itself, as far as it is used here. Add what you use:
// https://github.com/bytecodealliance/ComponentizeJS lists it.
declare class TextDecoder {
  constructor(encoding?: string, options?: { fatal?: boolean });
  decode(bytes?: Uint8Array): string;
}
declare class TextEncoder {
  encode(text?: string): Uint8Array;
}
declare const console: { log(...values: unknown[]): void; error(...values: unknown[]): void };
