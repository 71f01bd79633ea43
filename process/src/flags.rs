//! Flags of several programs: how values are read, and the messages for values that cannot be read.

use std::{ffi::OsStr, fmt::Display, net::SocketAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use clap::{Command, Parser};
use distwasm_proto::limits::DUKE_RAM_BYTES_MAX;

/// The largest memory size that a flag takes, in MB: a king accepts no more from a duke.
const MEGABYTES_MAX: u64 = DUKE_RAM_BYTES_MAX >> 20;

/// Reads the command line of this process. Ends the process if it is wrong or asks for help.
pub fn parse<T: Parser>() -> T {
    let matches = without_empty_variables(T::command()).get_matches();
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// An empty environment variable counts as not set: scripts and unit files unset variables like that.
pub fn without_empty_variables(command: Command) -> Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if arg.get_env().is_some_and(is_empty) { arg.env(None::<&str>) } else { arg });
    command.mut_subcommands(without_empty_variables)
}

/// Reads whole numbers in a range.
pub fn whole_number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("it must be a whole number from {} to {}", range.start(), range.end()))
    }
}

/// Reads a memory size in MB; 0 means no memory.
///
/// # Errors
///
/// When the text is not a number; if it has a unit, with the number that was meant.
pub fn megabytes(text: &str) -> Result<u64, String> {
    if let Some(megabytes) = text.parse().ok().filter(|megabytes| *megabytes <= MEGABYTES_MAX) {
        return Ok(megabytes);
    }
    let form = format!("it must be a whole number of MB, up to {MEGABYTES_MAX}");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
        "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1 << 10,
        "t" | "tb" | "tib" => 1 << 20,
        _ => return Err(form),
    };
    let meant = digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    Err(meant.map_or(form.clone(), |meant| format!("{form}: for {text} write {meant}")))
}

/// Reads a memory size of at least 1 MB.
///
/// # Errors
///
/// As [`megabytes`], and for 0.
pub fn positive_megabytes(text: &str) -> Result<u64, String> {
    match megabytes(text)? {
        0 => Err("it must be at least 1 MB".to_owned()),
        positive => Ok(positive),
    }
}

/// Reads a duration.
///
/// # Errors
///
/// When the text is not a duration, with an example.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "it must be a number with a unit (ms, s, min, h, days), such as 30s, 5min or 2h 30min".to_owned())
}

/// Reads a duration that is longer than zero.
///
/// # Errors
///
/// When the text is not a duration, or zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than 0 s".to_owned()),
        positive => Ok(positive),
    }
}

/// Reads an address to listen on.
///
/// # Errors
///
/// When the text is not an address, with an example of one.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let form = "it must be an IP address and a port, such as 127.0.0.1:1900 (this machine only) or \
                    0.0.0.0:1900 (every machine that can reach this one)";
        match text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
            Some(port) => format!("{form}: for {text} write 0.0.0.0:{port}"),
            None => form.to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_with_what_would_do() {
        assert_eq!(megabytes("4096"), Ok(4096));
        for (text, hint) in [("4G", "write 4096"), ("512MiB", "write 512"), ("1 TB", "write 1048576"), ("x", "of MB")] {
            assert!(megabytes(text).unwrap_err().contains(hint), "{text}");
        }
        for text in ["-1", "1.5", "", "99999999999999999999G", "18446744073709551615T", "4X", "G"] {
            assert!(!megabytes(text).unwrap_err().contains("write"), "{text}");
        }
        assert_eq!(duration("2h 30min"), Ok(Duration::from_secs(9000)));
        assert!(duration("22x").unwrap_err().contains("30s"));
        assert!(duration("22").unwrap_err().contains("30s"));
        assert!(positive_duration("0s").is_err());
        assert_eq!(whole_number(1..=5_u32)("5"), Ok(5));
        for text in ["0", "6", "abc", "", "1.0"] {
            assert_eq!(whole_number(1..=5_u32)(text).unwrap_err(), "it must be a whole number from 1 to 5");
        }
        assert!(listen_address("[::1]:1900").is_ok());
        assert!(listen_address(":1900").unwrap_err().contains("write 0.0.0.0:1900"));
        assert!(listen_address("localhost").unwrap_err().contains("127.0.0.1:1900"));
    }
}
