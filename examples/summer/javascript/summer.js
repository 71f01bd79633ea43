// Summer in JavaScript: reads `A + B`, answers the sum.

const SHOWN_MAX = 60;
const SPACES = " \\t\\n\\v\\f\\r";
const OUTER_SPACES = new RegExp(`^[${SPACES}]+|[${SPACES}]+$`, "g");

// The first plus after the first number's own sign and digits.
const PLUS = new RegExp(`(?<=[0-9${SPACES}])\\+`);

export function answer(input) {
  let text;
  try {
    text = trimmed(new TextDecoder("utf-8", { fatal: true }).decode(input));
  } catch {
    throw "the input is not text";
  }
  const plus = text.search(PLUS);
  if (plus < 0) throw `expected \`A + B\`, found \`${shown(text)}\``;
  const a = number(text.slice(0, plus));
  const b = number(text.slice(plus + 1));
  if (!fits(a + b)) throw `the sum of ${a} and ${b} does not fit into 128 bits`;
  return new TextEncoder().encode(`${a + b}\n`);
}

function number(untrimmed) {
  const text = trimmed(untrimmed);
  const parts = /^([+-]?)([0-9]+)$/.exec(text);
  if (parts === null) throw `\`${shown(text)}\` is not an integer`;
  const digits = parts[2].replace(/^0+(?=.)/, "");
  // 39 digits are the most that fit. BigInt takes time for thousands of them.
  const value = digits.length > 39 ? null : BigInt(parts[1] === "-" ? `-${digits}` : digits);
  if (value === null || !fits(value)) throw `\`${shown(text)}\` does not fit into 128 bits`;
  return value;
}

function fits(value) {
  return BigInt.asIntN(128, value) === value;
}

function trimmed(text) {
  return text.replace(OUTER_SPACES, "");
}

function shown(text) {
  return text.length <= SHOWN_MAX ? text : `${text.slice(0, SHOWN_MAX)}...`;
}
