//! The flags that say how a job is scheduled among others.

use std::collections::BTreeMap;

use clap::{Args, builder::BoolishValueParser};
use distwasm_jobs::request::Scheduling;
use distwasm_process::flags;
use distwasm_proto::limits::{NAME_BYTES_MAX, PRIORITY_MAX, WEIGHT_MAX};

/// How a job is scheduled among others.
#[derive(Args, Clone, Debug)]
pub struct SchedulingOptions {
    /// The project's share of the slots: a project of weight 2 gets twice as many as one of weight 1. The largest
    /// weight among the jobs of a project counts
    #[arg(long, value_name = "N", default_value_t = 1, env = "DISTWASM_WEIGHT", value_parser = flags::whole_number(1..=WEIGHT_MAX))]
    pub weight: u32,

    /// Get slots before jobs of the same project that have a lower priority (-100 to 100)
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, env = "DISTWASM_PRIORITY", value_parser = flags::whole_number(-PRIORITY_MAX..=PRIORITY_MAX))]
    pub priority: i32,

    /// Use at most N slots at a time [default: no limit]
    #[arg(long, value_name = "N", env = "DISTWASM_MAX_PARALLEL", value_parser = flags::whole_number(1..=u32::MAX))]
    pub max_parallel: Option<u32>,

    /// Run only on dukes with this label; needs a king; may be given several times
    #[arg(long = "require", value_name = "K=V", env = "DISTWASM_REQUIRE", value_delimiter = ',', value_parser = parse_label)]
    pub requires: Vec<(String, String)>,

    /// Never try a unit on a second duke while the first is still running it, however long it takes
    #[arg(long, env = "DISTWASM_NO_SPECULATION", value_parser = BoolishValueParser::new())]
    pub no_speculation: bool,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && text.len() <= NAME_BYTES_MAX => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("a label is KEY=VALUE, of at most {NAME_BYTES_MAX} bytes")),
    }
}

impl SchedulingOptions {
    /// A label that is required with two values, and both of them: no duke could have it.
    pub fn contradiction(&self) -> Option<(&str, [&str; 2])> {
        let mut required = BTreeMap::new();
        self.requires.iter().find_map(|(key, value)| {
            let other = required.insert(key, value).filter(|other| *other != value)?;
            Some((key.as_str(), [other.as_str(), value]))
        })
    }

    /// What they say.
    pub fn scheduling(&self) -> Scheduling {
        Scheduling {
            weight: self.weight,
            priority: self.priority,
            max_parallel: self.max_parallel,
            requires: self.requires.iter().cloned().collect(),
            speculate: !self.no_speculation,
        }
    }
}
