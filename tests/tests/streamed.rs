//! Inputs that are larger than what anybody on their way holds in memory.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{fs, os::unix::fs::FileExt, path::Path};

use distwasm_tests::real::{Place, fail_late, guest, peak_memory_bytes, peak_memory_bytes_of_running, until};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;

/// A file of this size with something in each mebibyte. Returns what `total.wat` answers to it.
fn write_large(path: &Path, bytes: u64) -> Vec<u8> {
    let file = fs::File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    let (mut sum, mut end) = (0_u64, 0);
    for place in (0..bytes).step_by(1_000_003) {
        let byte = 1 + (place % 255) as u8;
        file.write_all_at(&[byte], place).unwrap();
        // The bytes between are zero.
        sum = sum.wrapping_mul(power(31, place + 1 - end)).wrapping_add(byte.into());
        end = place + 1;
    }
    sum = sum.wrapping_mul(power(31, bytes - end));
    [bytes.to_le_bytes(), sum.to_le_bytes()].concat()
}

fn power(base: u64, exponent: u64) -> u64 {
    match exponent {
        0 => 1,
        _ if exponent.is_multiple_of(2) => power(base.wrapping_mul(base), exponent / 2),
        _ => base.wrapping_mul(power(base, exponent - 1)),
    }
}

#[test]
fn large_inputs_go_through_a_kingdom_in_parts_also_if_a_duke_dies_and_small_ones_beside_them() {
    let place = Place::default();
    let expected: Vec<(String, Vec<u8>)> = [160 * MIB, 40 * MIB + 1, 16 * MIB, 16 * MIB - 1, 5, 0]
        .into_iter()
        .map(|bytes| {
            let name = format!("{bytes} bytes");
            let answer = write_large(&place.input().join(&name), bytes);
            (name, answer)
        })
        .collect();
    // What the first duke had when it was killed is not waited for.
    let king = place.king_with(&["--grace", "2s"]);
    let first = place.duke(&king, &[]);
    let mut queen = place.start_queen(&king, guest("total.wat"), &[]);
    let received = || king.metric("distwasm_bytes_total{kind=\"inputs\"}");
    until("some parts", || (received() > 40 * MIB).then_some(()), || queen.log());
    first.signal(Signal::KILL);
    let second = place.duke(&king, &[]);
    let mut queen_peak = 0;
    let is_over = |queen: &mut distwasm_tests::real::Process| !queen.is_running();
    until(
        "the end",
        || {
            // The queen may have ended between the two.
            if is_over(&mut queen) {
                return Some(());
            }
            queen_peak = queen_peak.max(peak_memory_bytes_of_running(queen.id()).unwrap_or(0));
            None
        },
        || "it goes on".to_owned(),
    );
    queen.finish().expect(0, &["6 done", "0 failed"]);
    for (name, answer) in expected {
        assert_eq!(fs::read(place.output().join(&name)).unwrap(), answer, "{name}");
    }
    assert!(received() > 233 * MIB, "the input of the killed duke went twice");
    let peaks = [king.process.id(), second.id()].map(|id| peak_memory_bytes(id) / MIB);
    let peaks = [peaks[0], peaks[1], queen_peak / MIB];
    assert!(peaks.iter().all(|peak| *peak < 150), "king, duke and queen had {peaks:?} MB");
    // Nothing is left of what the dukes have stored.
    king.expect_metric("distwasm_bytes_in_flight{kind=\"inputs\"}", |bytes| bytes == 0);
}

#[test]
fn an_input_that_changes_on_its_way_fails_and_says_so() {
    let place = Place::default();
    let path = place.input().join("large");
    write_large(&path, 200 * MIB);
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    let queen = place.start_queen(&king, guest("total.wat"), &[]);
    until(
        "some parts",
        || (king.metric("distwasm_bytes_total{kind=\"inputs\"}") > 2 * MIB).then_some(()),
        || queen.log(),
    );
    fs::File::options().write(true).open(&path).unwrap().write_all_at(b"changed", 0).unwrap();
    queen.finish().expect(1, &["1 failed", "has changed since; run again when it is at rest"]);
}

/// The number of bytes for `expand.wat`.
fn write_size(place: &Place, name: &str, bytes: u64) {
    place.write(name, bytes.to_le_bytes());
}

/// Whether a file has what `expand.wat` writes.
fn is_expanded(path: &Path, bytes: u64) -> bool {
    let content = fs::read(path).unwrap_or_default();
    let pattern: Vec<u8> = (0..=250).collect();
    content.len() as u64 == bytes && content.chunks(pattern.len()).all(|chunk| pattern.starts_with(chunk))
}

/// Waits for the end of a process. Returns its peak memory until then.
fn peak_to_the_end(process: &mut distwasm_tests::real::Process) -> u64 {
    let mut peak = 0;
    until(
        "the end",
        || {
            // It may have ended between the two.
            if !process.is_running() {
                return Some(());
            }
            peak = peak.max(peak_memory_bytes_of_running(process.id()).unwrap_or(0));
            None
        },
        || "it goes on".to_owned(),
    );
    peak
}

#[test]
fn large_results_go_through_a_kingdom_in_parts_also_if_a_duke_dies_and_small_ones_beside_them() {
    let place = Place::default();
    // Larger than the memory of a peasant, than what a pipe carries into memory, and neither.
    let sizes = [400 * MIB + 1, 40 * MIB, 16 * MIB, 16 * MIB - 1, 17_000, 5, 0];
    sizes.iter().for_each(|bytes| write_size(&place, &bytes.to_string(), *bytes));
    let king = place.king_with(&["--grace", "2s"]);
    let first = place.duke(&king, &["--ram-limit", "256"]);
    let mut queen = place.start_queen(&king, guest("expand.wat"), &[]);
    let passed = || king.metric("distwasm_bytes_total{kind=\"results\"}");
    until("some parts", || (passed() > 90 * MIB).then_some(()), || queen.log());
    first.signal(Signal::KILL);
    let second = place.duke(&king, &["--ram-limit", "256"]);
    let queen_peak = peak_to_the_end(&mut queen);
    queen.finish().expect(0, &["7 done", "0 failed"]);
    for bytes in sizes {
        assert!(is_expanded(&place.output().join(bytes.to_string()), bytes), "{bytes}");
    }
    let peaks = [king.process.id(), second.id()].map(|id| peak_memory_bytes(id) / MIB);
    let peaks = [peaks[0], peaks[1], queen_peak / MIB];
    assert!(peaks.iter().all(|peak| *peak < 150), "king, duke and queen had {peaks:?} MB");
    assert!(passed() > 490 * MIB, "the result of the killed duke went twice");
    king.expect_metric("distwasm_bytes_in_flight{kind=\"results\"}", |bytes| bytes == 0);
    king.expect_metric("distwasm_bytes_in_flight{kind=\"inputs\"}", |bytes| bytes == 0);
    // Nothing is left beside the outputs.
    assert_eq!(place.outputs_count(), sizes.len());
}

#[test]
fn a_large_result_replaces_an_earlier_one_or_goes_to_stdout() {
    let place = Place::default();
    write_size(&place, "a", 20 * MIB);
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    place.start_queen(&king, guest("expand.wat"), &["--sync"]).finish().expect(0, &["1 done"]);
    fs::write(place.output().join("a"), "another").unwrap();
    place.start_queen(&king, guest("expand.wat"), &["--force"]).finish().expect(0, &["1 done"]);
    assert!(is_expanded(&place.output().join("a"), 20 * MIB));
    let mut to_stdout = place.command("queen");
    to_stdout.arg("--binary").arg(guest("expand.wat")).arg("--king-address").arg(&king.address);
    let shown = to_stdout.arg("--input").arg(place.input().join("a")).args(["--output", "-"]).output().unwrap();
    fs::write(place.path().join("shown"), shown.stdout).unwrap();
    assert!(is_expanded(&place.path().join("shown"), 20 * MIB));
}

#[test]
fn a_large_result_for_which_the_queen_has_no_room_ends_the_run() {
    let place = Place::default();
    write_size(&place, "a", 64 * MIB);
    let king = place.king();
    let _duke = place.duke(&king, &[]);
    // Only closing a file tells that the disk is full.
    let mut queen = place.queen_command(guest("expand.wat"));
    fs::create_dir_all(place.output()).unwrap();
    fail_late(&mut queen, &fs::canonicalize(place.output()).unwrap().join(""), 28);
    let queen = place.start(queen.arg("--king-address").arg(&king.address), "queen");
    queen.finish().expect(2, &["no more outputs can be written", "0 done"]);
    assert_eq!(place.outputs_count(), 0);
}
