//! Says what a file is that is no WebAssembly program, so that whoever named the wrong file sees it at once.

/// How files of well-known kinds begin.
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

/// What a file is, by how it begins; `None` if that tells nothing.
pub fn what_is(bytes: &[u8]) -> Option<&'static str> {
    BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, what)| *what)
}

/// The first bytes of a file for people, when nothing else is known of it.
pub fn first_bytes(bytes: &[u8]) -> String {
    const SHOWN: usize = 8;
    bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
