//! Names the kind of a file that is not a WebAssembly program, so that a user who named the wrong file sees it at once.

/// The first bytes of well-known kinds of files.
const BEGINNINGS: [(&[u8], &str); 22] = [
    (b"\x7fELF", "an ELF executable or library"),
    (b"MZ", "a Windows executable"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O executable"),
    (b"\xce\xfa\xed\xfe", "a Mach-O executable"),
    (b"\xca\xfe\xba\xbe", "a universal Mach-O executable or a Java class"),
    (b"!<arch>\n", "an archive of object files"),
    (b"BC\xc0\xde", "LLVM bitcode"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", "a zip file"),
    (b"PK\x05\x06", "an empty zip file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF-", "a PDF document"),
    (b"#!", "a script"),
    (b"<!DOCTYPE", "a page of HTML or XML"),
    (b"<html", "a page of HTML"),
    (b"<?xml", "an XML document"),
];

/// Why these bytes cannot be a program, as far as their beginning tells: neither binary nor text.
pub fn why_no_program(bytes: &[u8]) -> Option<String> {
    if bytes.starts_with(b"\0asm") {
        return None;
    }
    let is_text = || std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'));
    let what = match BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
        Some((_, what)) => (*what).to_owned(),
        None if bytes.is_empty() => "empty".to_owned(),
        None if is_text() => return None,
        None => format!("a binary file that begins with {}", first_bytes(bytes)),
    };
    Some(format!("not a WebAssembly program: it is {what}"))
}

/// The first bytes of a file for people, when nothing else is known of it.
fn first_bytes(bytes: &[u8]) -> String {
    const SHOWN: usize = 8;
    bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_pass_and_other_files_are_named() {
        assert_eq!(why_no_program(b"\0asm\x01\0\0\0"), None);
        assert_eq!(why_no_program(b"(module)"), None);
        let told = |bytes: &[u8]| why_no_program(bytes).unwrap();
        assert_eq!(told(b""), "not a WebAssembly program: it is empty");
        assert_eq!(told(b"\x7fELF\x02"), "not a WebAssembly program: it is an ELF executable or library");
        assert_eq!(told(b"ab\0"), "not a WebAssembly program: it is a binary file that begins with 61 62 00");
    }
}
