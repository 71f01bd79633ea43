//! The files that `queen new` writes: a few for each language, and the library for guests in that language.

use clap::ValueEnum;

/// A language for a new program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    /// Rust, with its target wasm32-wasip1
    Rust,
    /// C, with Zig or clang
    C,
    /// C++, with Zig or clang
    #[value(name = "c++")]
    Cpp,
    /// Go 1.24 or later
    Go,
    /// Zig 0.14 or later
    Zig,
    /// AssemblyScript, with npm
    #[value(name = "assemblyscript")]
    AssemblyScript,
    /// Python, with componentize-py
    Python,
    /// JavaScript, with npm and componentize-js
    #[value(name = "javascript")]
    JavaScript,
    /// TypeScript, with npm and componentize-js
    #[value(name = "typescript")]
    TypeScript,
}

/// A file of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateFile {
    /// Its path in the project.
    pub path: &'static str,
    /// Its content.
    pub text: String,
}

/// Path and text of each file, with placeholders.
type Files = &'static [(&'static str, &'static str)];

/// Files of every project.
const PROJECT: Files = &[
    (".gitignore", include_str!("../templates/project/gitignore")),
    ("README.md", include_str!("../templates/project/README.md")),
    ("input/greeting", include_str!("../templates/project/input/greeting")),
    ("input/poem", include_str!("../templates/project/input/poem")),
];

const RUST: Files = &[
    ("build.sh", include_str!("../templates/rust/build.sh")),
    ("Cargo.toml", include_str!("../templates/rust/Cargo.toml")),
    ("src/lib.rs", include_str!("../templates/rust/src/lib.rs")),
    ("distwasm/Cargo.toml", include_str!("../../guest/Cargo.toml")),
    ("distwasm/src/lib.rs", include_str!("../../guest/src/lib.rs")),
];

const C: Files = &[
    ("build.sh", include_str!("../templates/c/build.sh")),
    ("program.c", include_str!("../templates/c/program.c")),
    ("distwasm.h", include_str!("../../guest/c/distwasm.h")),
];

const CPP: Files = &[
    ("build.sh", include_str!("../templates/cpp/build.sh")),
    ("program.cc", include_str!("../templates/cpp/program.cc")),
    ("distwasm.h", include_str!("../../guest/c/distwasm.h")),
];

const GO: Files = &[
    ("build.sh", include_str!("../templates/go/build.sh")),
    ("go.mod", include_str!("../templates/go/go.mod")),
    ("program.go", include_str!("../templates/go/program.go")),
    ("distwasm/distwasm.go", include_str!("../../guest/go/distwasm.go")),
    ("distwasm/process_stdio.go", include_str!("../../guest/go/process_stdio.go")),
];

const ZIG: Files = &[
    ("build.sh", include_str!("../templates/zig/build.sh")),
    ("program.zig", include_str!("../templates/zig/program.zig")),
    ("distwasm.zig", include_str!("../../guest/zig/distwasm.zig")),
];

const ASSEMBLYSCRIPT: Files = &[
    ("build.sh", include_str!("../templates/assemblyscript/build.sh")),
    ("package.json", include_str!("../templates/assemblyscript/package.json")),
    ("assembly/tsconfig.json", include_str!("../templates/assemblyscript/assembly/tsconfig.json")),
    ("assembly/program.ts", include_str!("../templates/assemblyscript/assembly/program.ts")),
    ("assembly/distwasm.ts", include_str!("../templates/assemblyscript/assembly/distwasm.ts")),
];

const PYTHON: Files = &[
    ("build.sh", include_str!("../templates/python/build.sh")),
    ("app.py", include_str!("../templates/python/app.py")),
    ("wit/guest.wit", include_str!("../../guest/wit/guest.wit")),
];

const JAVASCRIPT: Files = &[
    ("build.sh", include_str!("../templates/javascript/build.sh")),
    ("package.json", include_str!("../templates/javascript/package.json")),
    ("program.js", include_str!("../templates/javascript/program.js")),
    ("wit/guest.wit", include_str!("../../guest/wit/guest.wit")),
];

const TYPESCRIPT: Files = &[
    ("build.sh", include_str!("../templates/typescript/build.sh")),
    ("package.json", include_str!("../templates/typescript/package.json")),
    ("tsconfig.json", include_str!("../templates/typescript/tsconfig.json")),
    ("src/program.ts", include_str!("../templates/typescript/src/program.ts")),
    ("src/engine.d.ts", include_str!("../templates/typescript/src/engine.d.ts")),
    ("wit/guest.wit", include_str!("../../guest/wit/guest.wit")),
];

impl Lang {
    /// The files of a project of this name.
    pub fn files(self, name: &str) -> Vec<TemplateFile> {
        let own = match self {
            Lang::Rust => RUST,
            Lang::C => C,
            Lang::Cpp => CPP,
            Lang::Zig => ZIG,
            Lang::JavaScript => JAVASCRIPT,
            Lang::TypeScript => TYPESCRIPT,
            Lang::Go => GO,
            Lang::AssemblyScript => ASSEMBLYSCRIPT,
            Lang::Python => PYTHON,
        };
        let filled = |text: &str| text.replace("{{name}}", name).replace("{{source}}", self.source());
        let file = |(path, text): &(&'static str, &str)| TemplateFile { path, text: filled(text) };
        PROJECT.iter().chain(own).map(file).collect()
    }

    /// The file with the function that answers.
    fn source(self) -> &'static str {
        match self {
            Lang::Rust => "src/lib.rs",
            Lang::C => "program.c",
            Lang::Cpp => "program.cc",
            Lang::Zig => "program.zig",
            Lang::JavaScript => "program.js",
            Lang::TypeScript => "src/program.ts",
            Lang::Go => "program.go",
            Lang::AssemblyScript => "assembly/program.ts",
            Lang::Python => "app.py",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_what_its_readme_speaks_of() {
        for lang in Lang::value_variants() {
            let files = lang.files("some-name");
            for path in ["README.md", "build.sh", "input/poem", lang.source()] {
                assert!(files.iter().any(|file| file.path == path), "{lang:?} has no {path}");
            }
            for TemplateFile { path, text } in files {
                assert!(!text.contains("{{") && text.ends_with('\n'), "{lang:?}: {path}");
            }
        }
    }
}
