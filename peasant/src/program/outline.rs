//! What a program shows of itself before it is compiled: its imports, its exports, and some signs of the tool that made
//! it. Reading this takes milliseconds, where compiling takes seconds.

use std::fmt::{self, Display};

use wasmparser::component_types::ComponentEntityType;
use wasmparser::types::TypesRef;
use wasmparser::{
    ComponentExternalKind, CompositeInnerType, Error, ExternalKind, FunctionBody, Import as ImportRead, MemoryType,
    Operator, Parser, Payload, TypeRef, ValidPayload, Validator, WasmFeatures,
};
use wasmtime::{ExternType, FuncType, Module};

/// What a program shows of itself.
pub(super) enum Outline {
    /// A core module.
    Module(ModuleOutline),
    /// A component.
    Component(ComponentOutline),
}

/// What a module shows of itself.
#[derive(Default)]
pub(super) struct ModuleOutline {
    pub(super) imports: Vec<Import>,
    pub(super) exports: Vec<Export>,
    /// The names of its custom sections.
    pub(super) sections: Vec<String>,
    pub(super) has_shared_memory: bool,
    /// It uses the first draft of exceptions, which the engine does not have.
    pub(super) has_legacy_exceptions: bool,
    /// It has `_start`, which returns at once.
    pub(super) has_empty_start: bool,
}

/// An import of a module.
pub(super) struct Import {
    pub(super) module: String,
    pub(super) name: String,
    pub(super) item: Item,
}

/// An export of a module.
pub(super) struct Export {
    pub(super) name: String,
    pub(super) item: Item,
}

/// What is imported or exported.
pub(super) enum Item {
    Function(Signature),
    Memory,
    Other,
}

/// The types that a function takes and returns, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Signature {
    pub(super) params: Vec<String>,
    pub(super) results: Vec<String>,
}

/// What a component shows of itself.
#[derive(Default)]
pub(super) struct ComponentOutline {
    /// What it needs; imports that only name types are left out.
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    /// Its exports, with those within interfaces as `INTERFACE#NAME`.
    pub(super) all_exports: Vec<String>,
    /// The modules in it, as far as they say something about the engine.
    pub(super) has_shared_memory: bool,
    pub(super) has_legacy_exceptions: bool,
    /// componentize-js made it.
    pub(super) is_javascript: bool,
}

impl Outline {
    /// Reads a binary program. The error says nothing for people: compiling finds it again, with its place.
    pub(super) fn read(bytes: &[u8]) -> Result<Outline, Error> {
        if Parser::is_component(bytes) {
            ComponentOutline::read(bytes).map(Outline::Component)
        } else {
            ModuleOutline::read(bytes).map(Outline::Module)
        }
    }
}

/// The parts of a module that are needed to tell its functions' signatures.
#[derive(Default)]
struct Functions {
    /// By the index of the type; `None` for types of other things.
    types: Vec<Option<Signature>>,
    /// The type of each function, those that are imported first.
    of: Vec<u32>,
    imported: usize,
}

impl Functions {
    fn signature(&self, type_index: u32) -> Signature {
        self.types.get(type_index as usize).cloned().flatten().unwrap_or_default()
    }

    fn item(&self, kind: ExternalKind, index: u32) -> Item {
        match kind {
            ExternalKind::Func | ExternalKind::FuncExact => {
                Item::Function(self.of.get(index as usize).map(|of| self.signature(*of)).unwrap_or_default())
            }
            ExternalKind::Memory => Item::Memory,
            _ => Item::Other,
        }
    }
}

impl ModuleOutline {
    fn read(bytes: &[u8]) -> Result<ModuleOutline, Error> {
        let mut outline = ModuleOutline::default();
        let (mut functions, mut has_tags) = (Functions::default(), false);
        let (mut start, mut next_body) = (None, 0);
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::TypeSection(types) => {
                    for group in types {
                        functions.types.extend(group?.into_types().map(|of| match of.composite_type.inner {
                            CompositeInnerType::Func(of) => Some(Signature::read(&of)),
                            _ => None,
                        }));
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        has_tags |= outline.add_import(import?, &mut functions);
                    }
                }
                Payload::FunctionSection(of) => {
                    for of in of {
                        functions.of.push(of?);
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        outline.add_memory(memory?);
                    }
                }
                Payload::TagSection(tags) => has_tags |= tags.count() > 0,
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export?;
                        if export.name == "_start" {
                            start = (export.index as usize).checked_sub(functions.imported);
                        }
                        let item = functions.item(export.kind, export.index);
                        outline.exports.push(Export { name: export.name.to_owned(), item });
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    if start == Some(next_body) {
                        outline.has_empty_start = is_empty(&body)?;
                    }
                    // All that use exceptions have a tag.
                    if has_tags && !outline.has_legacy_exceptions {
                        outline.has_legacy_exceptions = uses_legacy_exceptions(&body)?;
                    }
                    next_body += 1;
                }
                Payload::CustomSection(section) => outline.sections.push(section.name().to_owned()),
                _ => {}
            }
        }
        Ok(outline)
    }

    /// Adds an import, and returns whether it is a tag.
    fn add_import(&mut self, import: ImportRead<'_>, functions: &mut Functions) -> bool {
        let item = match import.ty {
            TypeRef::Func(of) | TypeRef::FuncExact(of) => {
                functions.of.push(of);
                functions.imported += 1;
                Item::Function(functions.signature(of))
            }
            TypeRef::Memory(memory) => {
                self.add_memory(memory);
                Item::Memory
            }
            _ => Item::Other,
        };
        self.imports.push(Import { module: import.module.to_owned(), name: import.name.to_owned(), item });
        matches!(import.ty, TypeRef::Tag(_))
    }

    fn add_memory(&mut self, memory: MemoryType) {
        self.has_shared_memory |= memory.shared;
    }

    /// The outline of a module that was compiled. The signs of what made it are gone.
    pub(super) fn of(module: &Module) -> ModuleOutline {
        let imports = module.imports().map(|import| Import {
            module: import.module().to_owned(),
            name: import.name().to_owned(),
            item: Item::of(&import.ty()),
        });
        let exports =
            module.exports().map(|export| Export { name: export.name().to_owned(), item: Item::of(&export.ty()) });
        ModuleOutline { imports: imports.collect(), exports: exports.collect(), ..ModuleOutline::default() }
    }

    /// The export of this name.
    pub(super) fn export(&self, name: &str) -> Option<&Item> {
        self.exports.iter().find(|export| export.name == name).map(|export| &export.item)
    }

    /// Whether an import is like this.
    pub(super) fn imports_any(&self, is_like: impl Fn(&str, &str) -> bool) -> bool {
        self.imports.iter().any(|import| is_like(&import.module, &import.name))
    }
}

impl Item {
    pub(super) fn of(item: &ExternType) -> Item {
        match item {
            ExternType::Func(function) => Item::Function(Signature::of(function)),
            ExternType::Memory(_) => Item::Memory,
            _ => Item::Other,
        }
    }
}

impl Signature {
    fn read(function: &wasmparser::FuncType) -> Signature {
        let texts = |types: &[wasmparser::ValType]| types.iter().map(ToString::to_string).collect();
        Signature { params: texts(function.params()), results: texts(function.results()) }
    }

    fn of(function: &FuncType) -> Signature {
        Signature {
            params: function.params().map(|value| value.to_string()).collect(),
            results: function.results().map(|value| value.to_string()).collect(),
        }
    }
}

impl Signature {
    /// Whether it takes and returns only what can be written as text.
    pub(super) fn is_of_numbers(&self) -> bool {
        self.params.iter().chain(&self.results).all(|value| matches!(value.as_str(), "i32" | "i64" | "f32" | "f64"))
    }
}

impl Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({})", self.params.join(", "))?;
        if self.results.is_empty() { Ok(()) } else { write!(f, " -> {}", self.results.join(", ")) }
    }
}

/// Whether a function does nothing and returns.
fn is_empty(body: &FunctionBody<'_>) -> Result<bool, Error> {
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        if !matches!(operators.read()?, Operator::Nop | Operator::Return | Operator::End) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn uses_legacy_exceptions(body: &FunctionBody<'_>) -> Result<bool, Error> {
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let operator = operators.read()?;
        if matches!(
            operator,
            Operator::Try { .. }
                | Operator::Catch { .. }
                | Operator::CatchAll
                | Operator::Rethrow { .. }
                | Operator::Delegate { .. }
        ) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl ComponentOutline {
    fn read(bytes: &[u8]) -> Result<ComponentOutline, Error> {
        let mut outline = ComponentOutline::default();
        // Only the types are needed, and features that are switched off have better words elsewhere. The bodies of
        // functions are not looked at.
        let mut validator = Validator::new_with_features(WasmFeatures::all());
        let (mut imports, mut exports) = (Vec::new(), Vec::new());
        // How many modules and components deep the payload is.
        let (mut depth, mut has_tags) = (0_usize, false);
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            match &payload {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                    depth += 1;
                    has_tags = false;
                }
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section.clone() {
                        imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section.clone() {
                        let export = export?;
                        exports.push((export.name.name.to_owned(), export.kind));
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories.clone() {
                        outline.has_shared_memory |= memory?.shared;
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.clone().into_imports() {
                        has_tags |= matches!(import?.ty, TypeRef::Tag(_));
                    }
                }
                Payload::TagSection(tags) => has_tags |= tags.count() > 0,
                Payload::CodeSectionEntry(body) if has_tags && !outline.has_legacy_exceptions => {
                    outline.has_legacy_exceptions = uses_legacy_exceptions(body)?;
                }
                Payload::CustomSection(section) if section.name() == "producers" => {
                    outline.is_javascript |= contains(section.data(), b"ComponentizeJS");
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                _ => {}
            }
            if let ValidPayload::End(types) = validator.payload(&payload)? {
                // The last one is that of the component itself.
                outline.name(types.as_ref(), &imports, &exports);
            }
        }
        Ok(outline)
    }

    /// Fills in the names, which are found out for each part again; the last one counts.
    fn name(&mut self, types: TypesRef<'_>, imports: &[String], exports: &[(String, ComponentExternalKind)]) {
        let imports = imports
            .iter()
            .filter(|name| types.component_item_for_import(name).is_some_and(|item| needs_something(types, &item.ty)));
        self.imports = imports.cloned().collect();
        self.exports = exports.iter().map(|(name, _)| name.clone()).collect();
        self.all_exports.clear();
        for (name, _) in exports {
            match types.component_item_for_export(name).map(|item| &item.ty) {
                Some(ComponentEntityType::Instance(id)) => {
                    let within = types.get(*id).into_iter().flat_map(|instance| instance.exports.keys());
                    self.all_exports.extend(within.map(|within| format!("{name}#{within}")));
                }
                _ => self.all_exports.push(name.clone()),
            }
        }
    }
}

/// Whether an import must be there: one that holds nothing but types need not.
fn needs_something(types: TypesRef<'_>, item: &ComponentEntityType) -> bool {
    match item {
        ComponentEntityType::Instance(id) => {
            let exports = types.get(*id).map(|instance| &instance.exports);
            exports.is_none_or(|exports| exports.values().any(|export| needs_something(types, &export.ty)))
        }
        ComponentEntityType::Type { created, .. } => {
            matches!(created, wasmparser::component_types::ComponentAnyTypeId::Resource(_))
        }
        _ => true,
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
