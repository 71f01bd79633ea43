//! Summer as a component of the world `distwasm:guest/program`.

#[path = "../../src/sum.rs"]
mod sum;

wit_bindgen::generate!({ path: "../../../guest/wit", world: "program" });

struct Summer;

impl Guest for Summer {
    fn answer(input: Vec<u8>) -> Result<Vec<u8>, String> {
        sum::answer(&input)
    }
}

export!(Summer);
