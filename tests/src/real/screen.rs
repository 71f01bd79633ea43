//! What a user reads of a run, without what differs from machine to machine.

use super::{Finished, Place, root};

/// The screen of a run, without what differs from machine to machine and from run to run.
pub fn screen(place: &Place, finished: &Finished) -> String {
    let Finished { status, stdout, stderr } = finished;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let folders = [("examples/summer", "EXAMPLES"), ("tests/guests", "GUESTS")];
    let mut text = format!("{stdout}{stderr}status {}\n", status.unwrap())
        .replace(&format!("{}/", place.path().display()), "")
        .replace(&format!("(on {host})"), "(on HOST)");
    for (folder, name) in folders {
        text = text.replace(&root().join(folder).display().to_string(), name);
    }
    text.split_inclusive('\n').map(without_times).collect()
}

/// A line with `N` in place of each number that is followed by a unit of time.
fn without_times(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let is_time = |word: Option<&&str>| {
        word.is_some_and(|word| ["s", "ms", "units/s)"].contains(&word.trim_end_matches(['\n', ',', ';', ':'])))
    };
    let shown = words.iter().enumerate().map(|(place, word)| {
        let number = word.trim_start_matches('(');
        let is_number = number.parse::<f64>().is_ok() && is_time(words.get(place + 1));
        if is_number { word.replace(number, "N") } else { (*word).to_owned() }
    });
    shown.collect::<Vec<String>>().join(" ")
}
