//! Inputs that are larger than what anybody on their way holds in memory.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{fs, os::unix::fs::FileExt, path::Path};

use distwasm_tests::real::{Place, guest, peak_memory_bytes, peak_memory_bytes_of_running, until};
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
