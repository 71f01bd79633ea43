//! `queen help`: the help of the queen and its tools, and pages of the documents for a terminal.

use clap::Args;

/// Prints this help, the help of a tool, or a page of the documents.
#[derive(Args, Debug)]
pub struct HelpOptions {
    /// A tool, or a page: `kinds` of programs, inputs and `outputs`, or `failures`
    #[arg(value_name = "TOOL|PAGE")]
    pub word: Option<String>,
}

/// A section of a document that is printed as a page.
struct Page {
    word: &'static str,
    document: &'static str,
    heading: &'static str,
}

const REFERENCE: &str = include_str!("../../../docs/reference.md");

const PAGES: [Page; 3] = [
    Page { word: "kinds", document: include_str!("../../../docs/guest-abi.md"), heading: "Kinds and languages" },
    Page { word: "outputs", document: REFERENCE, heading: "Inputs and outputs" },
    Page { word: "failures", document: REFERENCE, heading: "Failures" },
];

/// The page that this word names, in upper or lower case.
pub fn page(word: &str) -> Option<String> {
    let page = PAGES.iter().find(|page| page.word.eq_ignore_ascii_case(word))?;
    Some(without_links(&section(page.document, page.heading)))
}

/// What to say of a word that names neither one of these tools nor a page: the words that do, the most similar first.
pub fn no_page(word: &str, tools: &[&str]) -> String {
    let tools = tools.iter().copied().filter(|tool| *tool != "help");
    let mut words: Vec<&str> = tools.chain(PAGES.iter().map(|page| page.word)).collect();
    let lower = word.to_lowercase();
    // The sort is stable: words that are equally similar stay in order.
    words.sort_by(|one, other| strsim::jaro(&lower, other).total_cmp(&strsim::jaro(&lower, one)));
    format!("there is no help on `{word}`; there is help on {}", words.join(", "))
}

/// The section of a document with this heading of the second level, up to the next heading of that level or above.
fn section(document: &str, heading: &str) -> String {
    let mut is_code = false;
    let mut is_inside = false;
    let is_in_section = |line: &&str| {
        is_code ^= line.starts_with("```");
        if !is_code && (line.starts_with("# ") || line.starts_with("## ")) {
            is_inside = line.strip_prefix("## ") == Some(heading);
        }
        is_inside
    };
    let lines: Vec<&str> = document.lines().filter(is_in_section).collect();
    lines.join("\n").trim().to_owned() + "\n"
}

/// The text, with only the words of each link `[words](target)`.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain.push_str(before);
        let parts = link.split_once("](").and_then(|(words, rest)| Some((words, rest.split_once(')')?.1)));
        match parts.filter(|(words, _)| !words.contains(['[', ']'])) {
            Some((words, after)) => {
                plain.push_str(words);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_there() {
        for Page { word, heading, .. } in &PAGES {
            let text = page(&word.to_uppercase()).unwrap();
            assert!(text.starts_with(&format!("## {heading}\n")), "{word}: {text}");
            assert!(text.lines().count() > 10 && !text.contains("]("), "{word}: {text}");
            assert_eq!(text.lines().filter(|line| line.starts_with("## ")).count(), 1, "{word}: {text}");
        }
        assert!(page("nothing").is_none() && page("").is_none());
    }

    #[test]
    fn a_section_ends_at_the_next_heading_outside_of_code() {
        let document = "# A\n\n## B\n\nb\n\n```sh\n# test\n```\n\n### B1\n\n## C\n\nc\n\n# D\n";
        assert_eq!(section(document, "B"), "## B\n\nb\n\n```sh\n# test\n```\n\n### B1\n");
        assert_eq!(section(document, "C"), "## C\n\nc\n");
    }

    #[test]
    fn links_are_reduced_to_their_words() {
        for (text, plain) in [
            ("see [the\npage](a.md#b), and [c](d).", "see the\npage, and c."),
            ("`[ARGS]...` and [x](y)", "`[ARGS]...` and x"),
            ("a[0] [b", "a[0] [b"),
            ("[a](b", "[a](b"),
        ] {
            assert_eq!(without_links(text), plain);
        }
    }

    #[test]
    fn an_unknown_word_is_answered_by_the_words_that_there_are() {
        let why = no_page("Failure", &["check", "jobs"]);
        assert!(why.starts_with("there is no help on `Failure`; there is help on failures, "), "{why}");
        assert!(["check", "jobs", "kinds", "outputs"].iter().all(|word| why.contains(word)), "{why}");
        assert!(no_page("chek", &["jobs", "check", "help"]).contains("help on check, "));
    }
}
