//! The results of a run, as a Markdown file.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use distwasm_process::clock::time_of_day;

use crate::{chart, figures::digits, options::Run, place::root};

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(header: &[&str]) -> Table {
        Table { header: header.iter().map(|text| (*text).to_owned()).collect(), rows: Vec::new() }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", " --- |".repeat(self.header.len()));
        line(&self.header) + &rule + &self.rows.iter().map(|row| line(row)).collect::<String>()
    }
}

/// A goal, and the measured figure.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The case.
    pub case: String,
    /// The name of the figure.
    pub what: String,
    /// The measured figure.
    pub measured: f64,
    /// The bound: not more than this, or not less.
    pub bound: Bound,
    /// The unit of both; empty for a ratio.
    pub unit: &'static str,
    /// Whether it is a ratio of wall times to the reference, which the chart shows.
    pub is_ratio: bool,
}

/// A bound from above or from below.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Goal {
    /// Wall time as a ratio to a reference.
    pub fn ratio(case: &str, what: &str, measured: f64, at_most: f64) -> Goal {
        let (case, what) = (case.to_owned(), what.to_owned());
        Goal { case, what, measured, bound: Bound::AtMost(at_most), unit: "", is_ratio: true }
    }

    /// Any other figure.
    pub fn figure(case: &str, what: &str, measured: f64, bound: Bound, unit: &'static str) -> Goal {
        Goal { case: case.to_owned(), what: what.to_owned(), measured, bound, unit, is_ratio: false }
    }

    /// Whether it is met.
    pub fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.measured <= bound,
            Bound::AtLeast(bound) => self.measured >= bound,
        }
    }

    fn row(&self) -> [String; 5] {
        let with_unit = |number: f64| format!("{} {}", digits(number), self.unit).trim_end().to_owned();
        let wanted = match self.bound {
            Bound::AtMost(bound) => format!("≤ {}", with_unit(bound)),
            Bound::AtLeast(bound) => format!("≥ {}", with_unit(bound)),
        };
        let fate = if self.is_met() { "yes" } else { "**no**" };
        [self.case.clone(), self.what.clone(), with_unit(self.measured), wanted, fate.to_owned()]
    }
}

/// The results of one case.
#[derive(Clone, Debug, Default)]
pub struct Chapter {
    /// Its name.
    pub name: String,
    /// The work that was done.
    pub work: String,
    /// The measurements.
    pub tables: Vec<Table>,
    /// The goals of the case.
    pub goals: Vec<Goal>,
    /// Further notes for the reader.
    pub notes: Vec<String>,
}

impl Chapter {
    /// The chapter in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n", self.name, self.work);
        for table in &self.tables {
            let _infallible = write!(text, "\n{}", table.markdown());
        }
        for note in &self.notes {
            let _infallible = write!(text, "\n{note}\n");
        }
        text
    }
}

/// All goals in one table.
pub fn summary(chapters: &[Chapter]) -> Table {
    let mut table = Table::new(&["case", "what", "measured", "goal", "met"]);
    chapters.iter().flat_map(|chapter| &chapter.goals).for_each(|goal| table.row(goal.row()));
    table
}

/// Writes the results, beside earlier ones of the same day. Returns their path.
///
/// # Errors
///
/// When they cannot be written.
pub fn write(options: &Run, chapters: &[Chapter]) -> Result<PathBuf> {
    let date = humantime::format_rfc3339_seconds(time_of_day()).to_string();
    let day = date.get(..10).unwrap_or(&date);
    fs::create_dir_all(&options.results)?;
    let name = (1..)
        .map(|number| if number == 1 { format!("{day}-speed") } else { format!("{day}-speed-{number}") })
        .find(|name| !options.results.join(format!("{name}.md")).exists())
        .unwrap_or_default();
    let chart_name = format!("{name}.svg");
    let goals: Vec<&Goal> = chapters.iter().flat_map(|chapter| &chapter.goals).filter(|goal| goal.is_ratio).collect();
    let mut text = format!("# Speed\n\n{}\n", machine(options, day));
    if !goals.is_empty() {
        fs::write(options.results.join(&chart_name), chart::bars(&goals))?;
        let _infallible = write!(text, "\n![Wall time as a multiple of the reference loop]({chart_name})\n");
    }
    let _infallible = write!(text, "\n## Goals\n\n{}", summary(chapters).markdown());
    for chapter in chapters {
        let _infallible = write!(text, "\n{}", chapter.markdown());
    }
    let path = options.results.join(format!("{name}.md"));
    fs::write(&path, text)?;
    Ok(path)
}

/// The conditions of the measurements: machine, versions and settings.
fn machine(options: &Run, day: &str) -> String {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let or_unknown =
        |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned());
    let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    format!(
        "{day}; {}, {cores} processors; Linux {}; {}; distwasm {}{}, release build.\n\n\
         Medians of {} runs, which took turns with those of the references after a warm-up run. CPU is user and \
         system time of all processes together. Peak memory is resident memory at its highest in any run. Inputs and \
         outputs were on {}.{}",
        or_unknown(processor),
        or_unknown(kernel),
        or_unknown(said("rustc", &["--version"])),
        or_unknown(said("git", &["rev-parse", "--short", "HEAD"])),
        if changed { " with changes" } else { "" },
        options.runs,
        file_system(options),
        if (options.scale - 1.0).abs() > f64::EPSILON {
            format!(" The numbers of units were multiplied by {}.", options.scale)
        } else {
            String::new()
        },
    )
}

fn file_system(options: &Run) -> String {
    match &options.folder {
        Some(folder) => format!("`{}`", folder.display()),
        None if Path::new("/dev/shm").is_dir() => "a memory file system".to_owned(),
        None => "the file system of temporary files".to_owned(),
    }
}
