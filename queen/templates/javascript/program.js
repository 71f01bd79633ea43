// Counts the words of an input.

// Answers one input: takes its bytes, and returns those of the result. The report shows the text that is thrown.
export function answer(input) {
  const words = new TextDecoder().decode(input).match(/\S+/g) ?? [];
  if (words.length === 0) throw "there is no word in it";
  return new TextEncoder().encode(`${words.length} words\n`);
}
