// Counts the words of an input.
import { answerUnit, fail } from "./distwasm";

// Called for each input: one instance answers all of them, and globals keep their values.
export function ProcessStdio(size: i32): void {
  answerUnit(size, answer);
}

// Answers one input. The report shows the reason that fail() is given.
function answer(input: Uint8Array): Uint8Array {
  let words = 0;
  let withinWord = false;
  for (let i = 0; i < input.length; i++) {
    const isLetter = input[i] != 0x20 && (input[i] < 0x09 || input[i] > 0x0d);
    if (isLetter && !withinWord) words++;
    withinWord = isLetter;
  }
  if (words == 0) fail("there is no word in it");
  return Uint8Array.wrap(String.UTF8.encode(words.toString() + " words\n"));
}
