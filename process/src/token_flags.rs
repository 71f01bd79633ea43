//! The flags of a duke or a queen about being let in by a king.

use std::path::PathBuf;

use clap::{Args, builder::BoolishValueParser};

/// How a duke or a queen is let in by a king that is not one of its user on its machine.
#[derive(Args, Clone, Debug, Default)]
pub struct TokenFlags {
    /// File with the token for the king, which only you may read; the variable DISTWASM_TOKEN may hold the token itself.
    /// The king of the same user on the same machine wants none
    #[arg(long, value_name = "FILE", env = "DISTWASM_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Talk to the king in plaintext and without a token, which `king --insecure` allows: for networks where everybody
    /// is trusted
    #[arg(long, env = "DISTWASM_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,
}
