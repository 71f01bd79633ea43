//! Flags of several programs: how values are read, and the messages for values that cannot be read.

use std::{
    ffi::OsStr,
    fmt::Display,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use clap::{ArgMatches, Command, Parser, parser::ValueSource};
use distwasm_proto::limits::{DUKE_RAM_BYTES_MAX, GUEST_STACK_BYTES_MAX, GUEST_STACK_BYTES_MIN};
use parse_size::Config;

/// The largest memory size that a flag takes, in MB: a king accepts no more from a duke.
const MEGABYTES_MAX: u64 = DUKE_RAM_BYTES_MAX >> 20;

/// The longest text of a memory size, in bytes: longer numbers would overflow in the parser.
const SIZE_BYTES_MAX: usize = 18;

/// Memory sizes as people write them. `MB` and `MiB` are both 1,048,576 bytes, and a plain number counts MB.
const SIZES: Config = Config::new().with_binary().with_default_factor(1 << 20);

/// Reads the command line of this process. Ends the process if it is wrong or asks for help.
pub fn parse<T: Parser>() -> T {
    parse_typed().0
}

/// As [`parse`], with what was typed for [`is_typed`].
pub fn parse_typed<T: Parser>() -> (T, ArgMatches) {
    let matches = without_empty_variables(T::command()).get_matches();
    (T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()), matches)
}

/// Whether a flag stands on the command line, and does not come from the environment: only then is it worth a word that
/// it has no effect.
pub fn is_typed(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
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

/// Reads a memory size, such as 512MB, 1.5G or 4096 (MB), in MB, rounded up; 0 means no memory.
///
/// # Errors
///
/// When the text is not a size, or one of more than [`DUKE_RAM_BYTES_MAX`], with an example.
pub fn megabytes(text: &str) -> Result<u64, String> {
    let bytes = Some(text).filter(|text| text.len() <= SIZE_BYTES_MAX).and_then(|text| SIZES.parse_size(text).ok());
    let megabytes = bytes.map(|bytes| bytes.div_ceil(1 << 20)).filter(|megabytes| *megabytes <= MEGABYTES_MAX);
    megabytes.ok_or_else(|| {
        let most = MEGABYTES_MAX >> 20;
        format!(
            "it must be a size of at most {most}T, such as 512MB or 8G; a plain number is MB (1 MB = 1,048,576 bytes)"
        )
    })
}

/// Reads a memory size, in bytes, rounded up to whole MB.
///
/// # Errors
///
/// As [`megabytes`].
pub fn whole_megabytes(text: &str) -> Result<u64, String> {
    megabytes(text).map(|megabytes| megabytes << 20)
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

/// Reads the size of a guest's stack, in bytes.
///
/// # Errors
///
/// When the text is not a size, or one that a stack cannot have, with an example.
pub fn stack_bytes(text: &str) -> Result<u64, String> {
    let bytes = Some(text).filter(|text| text.len() <= SIZE_BYTES_MAX).and_then(|text| SIZES.parse_size(text).ok());
    let bytes = bytes.filter(|bytes| (GUEST_STACK_BYTES_MIN..=GUEST_STACK_BYTES_MAX).contains(bytes));
    let (least, most) = (GUEST_STACK_BYTES_MIN >> 10, GUEST_STACK_BYTES_MAX >> 20);
    bytes.ok_or_else(|| format!("it must be a size from {least}KB to {most}MB, such as 8MB; a plain number is MB"))
}

/// Reads a duration.
///
/// # Errors
///
/// When the text is not a duration, with an example.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text.contains('M') {
        return Err(format!("M would be months: for minutes write {}", text.replace('M', "min")));
    }
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

/// Reads an address to listen on, which has this port unless the text names one.
///
/// # Errors
///
/// When the text is not an address, with an example of one.
pub fn listen_address(port: u16) -> impl Fn(&str) -> Result<SocketAddr, String> + Clone + Send + Sync + 'static {
    move |text| {
        let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let alone = match inside {
            Some(inside) => inside.parse().map(IpAddr::V6).ok(),
            None => text.parse().ok(),
        };
        match (alone, text.rsplit_once(':')) {
            // `::1:1900` is an address as a whole, and most people who write it mean a port.
            (Some(_), Some((before, last))) if inside.is_none() && before.parse::<Ipv6Addr>().is_ok() => Err(format!(
                "{text} may be read in two ways: write [{before}]:{last} for port {last}, or [{text}] for the address"
            )),
            (Some(address), _) => Ok(SocketAddr::new(address, port)),
            (None, _) => text.parse().map_err(|_| not_an_address(text)),
        }
    }
}

fn not_an_address(text: &str) -> String {
    let form = "it must be an IP address and a port, such as 127.0.0.1:1900 (this machine only) or 0.0.0.0:1900 \
                (every machine that can reach this one)";
    match text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        Some(port) => format!("{form}: for {text} write 0.0.0.0:{port}"),
        None => form.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_as_people_write_it() {
        for (text, read) in [
            ("0", 0),
            ("4096", 4096),
            ("512MB", 512),
            ("512MiB", 512),
            ("512m", 512),
            ("8G", 8192),
            ("2 GB", 2048),
            ("1.5G", 1536),
            ("1.5gib", 1536),
            ("1T", 1 << 20),
            ("256T", MEGABYTES_MAX),
            ("1K", 1),
            ("1024KiB", 1),
            ("1025 KB", 2),
            ("0.1", 1),
            ("1B", 1),
        ] {
            assert_eq!(megabytes(text), Ok(read), "{text}");
        }
        assert_eq!(positive_megabytes("8G"), Ok(8192));
        assert!(positive_megabytes("0G").is_err());
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_examples() {
        for text in [
            "",
            "-1",
            "x",
            "G",
            "4X",
            "4 GG",
            "8G8",
            "1,5G",
            "0x10",
            "257T",
            "16E",
            "1e30",
            "268435457",
            "99999999999999999999G",
            "18446744073709551615T",
            // The parser would add 1 to the largest number that it can hold.
            "184467440737095516155",
        ] {
            assert!(megabytes(text).unwrap_err().contains("512MB or 8G"), "{text}");
        }
    }

    #[test]
    fn a_duration_is_read_as_people_write_it() {
        for (text, seconds) in
            [("90s", 90), ("2h30m", 9000), ("2h 30min", 9000), ("5min", 300), ("1day", 86_400), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["22x", "22", "", "-1s", "soon"] {
            assert!(duration(text).unwrap_err().contains("30s"), "{text}");
        }
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn a_number_is_whole_and_in_its_range() {
        assert_eq!(whole_number(1..=5_u32)("5"), Ok(5));
        for text in ["0", "6", "abc", "", "1.0"] {
            assert_eq!(whole_number(1..=5_u32)(text).unwrap_err(), "it must be a whole number from 1 to 5");
        }
    }

    #[test]
    fn an_address_without_a_port_has_the_usual_one() {
        for (text, shown) in [
            ("0.0.0.0", "0.0.0.0:1900"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("::1", "[::1]:1900"),
            ("::", "[::]:1900"),
            ("[::1]", "[::1]:1900"),
            ("[::1]:7", "[::1]:7"),
            ("[::1:7]", "[::1:7]:1900"),
        ] {
            assert_eq!(listen_address(1900)(text).map(|address| address.to_string()), Ok(shown.to_owned()), "{text}");
        }
        for (text, hint) in [
            (":1900", "write 0.0.0.0:1900"),
            ("*:7", "write 0.0.0.0:7"),
            ("localhost", "127.0.0.1:1900"),
            ("1900", "127.0.0.1:1900"),
            ("", "127.0.0.1:1900"),
            ("[127.0.0.1]", "127.0.0.1:1900"),
            ("::1:1900", "write [::1]:1900"),
            ("0.0.0.0:", "127.0.0.1:1900"),
        ] {
            assert!(listen_address(1900)(text).unwrap_err().contains(hint), "{text}");
        }
    }
}
