//! Functions of numbers: the input holds the arguments as text, the answer holds the results. Each unit gets a fresh
//! instance.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use distwasm_proto::failure::{Failure, FailureKind};
use wasmtime::{ExternType, FuncType, InstancePre, ModuleExport, Store, Val, ValType};

use super::{Abi, Unit, initialise, no_guest};
use crate::guest::{self, Grants, Guest};
use crate::stdio::deliver;
use crate::verdict;

/// A program with a function of numbers.
pub struct Call {
    linked: InstancePre<Guest>,
    grants: Arc<Grants>,
    name: String,
    export: ModuleExport,
    signature: FuncType,
    answer: String,
}

impl Call {
    /// Makes and initialises one instance, to check that this works.
    pub fn start(linked: InstancePre<Guest>, name: &str, grants: Arc<Grants>) -> Result<Call, Failure> {
        let module = linked.module();
        let (Some(export), Some(ExternType::Func(signature))) =
            (module.get_export_index(name), module.get_export(name))
        else {
            return Err(Failure::new(FailureKind::Program, format!("exports no function `{name}`")));
        };
        let call = Call { name: name.to_owned(), export, signature, grants, answer: String::new(), linked };
        let mut store = call.store(None)?;
        let made = call.linked.instantiate(&mut store).and_then(|instance| initialise(&instance, &mut store));
        match made {
            Ok(()) => Ok(call),
            Err(error) => {
                verdict::of_error(&error, store.data())?;
                Err(verdict::of_answer("exited while it was instantiated".to_owned(), store.data()))
            }
        }
    }

    fn store(&self, description: Option<Bytes>) -> Result<Store<Guest>, Failure> {
        guest::store(self.linked.module().engine(), &self.grants, description).map_err(|error| no_guest(&error))
    }

    fn run(&self, store: &mut Store<Guest>, arguments: &[Val]) -> wasmtime::Result<Vec<Val>> {
        let instance = self.linked.instantiate(&mut *store)?;
        initialise(&instance, store)?;
        let export = instance.get_module_export(&mut *store, &self.export);
        let function = export.and_then(wasmtime::Extern::into_func);
        let function = function.ok_or_else(|| wasmtime::format_err!("`{}` is not a function", self.name))?;
        let mut results = vec![Val::I32(0); self.signature.results().len()];
        function.call(store, arguments, &mut results)?;
        Ok(results)
    }
}

impl Abi for Call {
    fn answer(&mut self, unit: Unit) -> Result<&[u8], Failure> {
        let arguments = parse(&unit.input.whole()?, &self.signature)
            .map_err(|why| Failure::new(FailureKind::Input, format!("cannot call `{}`: {why}", self.name)))?;
        let mut store = self.store(unit.description)?;
        store.data().stdio.lock().drop_output();
        match self.run(&mut store, &arguments) {
            Ok(results) => {
                self.answer = show(&results);
                deliver(self.answer.as_bytes(), unit.output)
            }
            Err(error) => {
                verdict::of_error(&error, store.data())?;
                Err(verdict::of_answer("exited before it returned".to_owned(), store.data()))
            }
        }
    }
}

/// Parses arguments that are separated by commas, white space, or both.
fn parse(input: &[u8], signature: &FuncType) -> Result<Vec<Val>, String> {
    let text = std::str::from_utf8(input)
        .map_err(|error| format!("the input is not text: invalid UTF-8 at byte {}", error.valid_up_to() + 1))?;
    let words = words(text)?;
    let wanted = signature.params().len();
    if words.len() != wanted {
        let types: Vec<_> = signature.params().map(|value| value.to_string()).collect();
        let noun = if wanted == 1 { "argument" } else { "arguments" };
        return Err(format!("it takes {wanted} {noun} ({}), and the input has {}", types.join(", "), words.len()));
    }
    let values = words.into_iter().zip(signature.params()).enumerate();
    values
        .map(|(index, ((at, word), value))| {
            number(word, &value).ok_or_else(|| {
                let word: String = word.chars().take(SHOWN_CHARACTERS).collect();
                format!("argument {} at byte {}, `{word}`, is not an {value}", index + 1, at + 1)
            })
        })
        .collect()
}

/// How many characters of a bad argument are shown.
const SHOWN_CHARACTERS: usize = 40;

/// The words of a text, each with the byte at which it begins. Between two commas there must be one.
fn words(text: &str) -> Result<Vec<(usize, &str)>, String> {
    let mut words = Vec::new();
    let mut at = 0;
    let is_empty = text.trim().is_empty();
    for part in text.split(',').filter(|_| !is_empty) {
        if part.trim().is_empty() {
            return Err(format!("an argument is missing at byte {}", at + 1));
        }
        let mut rest = part;
        while let Some(begin) = rest.find(|c: char| !c.is_whitespace()) {
            let word = rest.get(begin..).unwrap_or_default();
            let end = word.find(char::is_whitespace).unwrap_or(word.len());
            words.push((at + (part.len() - rest.len()) + begin, word.get(..end).unwrap_or_default()));
            rest = word.get(end..).unwrap_or_default();
        }
        at += part.len() + 1;
    }
    Ok(words)
}

/// Parses one number. Integers may be written as signed or unsigned ones of their size.
fn number(word: &str, value: &ValType) -> Option<Val> {
    Some(match value {
        ValType::I32 => Val::I32(word.parse::<i32>().or_else(|_| word.parse::<u32>().map(u32::cast_signed)).ok()?),
        ValType::I64 => Val::I64(word.parse::<i64>().or_else(|_| word.parse::<u64>().map(u64::cast_signed)).ok()?),
        ValType::F32 => Val::F32(word.parse::<f32>().ok()?.to_bits()),
        ValType::F64 => Val::F64(word.parse::<f64>().ok()?.to_bits()),
        ValType::V128 | ValType::Ref(_) => return None,
    })
}

/// Results as one line, separated by spaces: integers are signed, floats are the shortest text that reads back as the
/// same number.
fn show(results: &[Val]) -> String {
    let mut text = String::new();
    for result in results {
        if !text.is_empty() {
            text.push(' ');
        }
        let _ = match result {
            Val::I32(number) => write!(text, "{number}"),
            Val::I64(number) => write!(text, "{number}"),
            Val::F32(bits) => write!(text, "{:?}", f32::from_bits(*bits)),
            Val::F64(bits) => write!(text, "{:?}", f64::from_bits(*bits)),
            // Programs with other types were refused.
            _ => Ok(()),
        };
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Engine;

    fn parsed(text: &str, params: &[ValType]) -> Result<String, String> {
        let signature = FuncType::new(&Engine::default(), params.to_vec(), []);
        parse(text.as_bytes(), &signature).map(|values| show(&values))
    }

    #[test]
    fn arguments_are_separated_by_commas_white_space_or_both() {
        let types = [ValType::I64, ValType::F64, ValType::I32];
        for text in ["1 2.5 3", "1,2.5,3", " 1, 2.5\t3\n", "1\n2.5 ,\r\n3"] {
            assert_eq!(parsed(text, &types).unwrap(), "1 2.5 3\n", "{text:?}");
        }
        assert_eq!(parsed(" \n", &[]).unwrap(), "\n");
    }

    #[test]
    fn integers_take_the_range_of_both_signs() {
        assert_eq!(parsed("4294967295", &[ValType::I32]).unwrap(), "-1\n");
        assert_eq!(parsed("-9223372036854775808", &[ValType::I64]).unwrap(), "-9223372036854775808\n");
        assert!(parsed("4294967296", &[ValType::I32]).is_err());
    }

    #[test]
    fn a_bad_argument_is_reported_with_its_place() {
        let two = [ValType::I64, ValType::I64];
        let cases = [
            ("1 x2", "argument 2 at byte 3, `x2`, is not an i64"),
            ("1, 2.5", "argument 2 at byte 4, `2.5`, is not an i64"),
            ("1,,2", "an argument is missing at byte 3"),
            ("1,", "an argument is missing at byte 3"),
            ("1", "it takes 2 arguments (i64, i64), and the input has 1"),
        ];
        for (text, why) in cases {
            assert_eq!(parsed(text, &two).unwrap_err(), why);
        }
        let signature = FuncType::new(&Engine::default(), two, []);
        assert_eq!(parse(b"1 \xff", &signature).unwrap_err(), "the input is not text: invalid UTF-8 at byte 3");
    }
}
