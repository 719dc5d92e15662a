//! The JSON schema of the configuration file, for editors: built from the same rows as its reader.

use super::file::inherited;
use crate::spec::keys::{Keyed, Kind, Row, Scope};
use crate::spec::{GroupSpec, TreeSpec, VmSpec};
use pepita_wire::storage::NAME_CAP;
use pepita_wire::world::ULIMITS;
use serde_json::{Map, Value, json};

/// The pattern of the durations that `humantime` reads: numbers with units.
const DURATION: &str = "^(\\s*[0-9]+\\s*[a-zA-Z]+)+\\s*$|^0$";

/// The characters of the name of a disk.
const DISK_NAME: &str = "^[a-zA-Z0-9][a-zA-Z0-9_.-]*$";

/// A port, perhaps with an address in front and a path behind.
const HTTP_PLACE: &str = "^$|^([^/ ]+:)?[0-9]+(/[!-~]*)?$";

/// A size with a unit.
const SIZE: &str = "^[0-9]+ *([MmGgTt]|[MGT]iB)$";

/// The characters of a name.
const NAME: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

/// Returns the JSON schema (draft 2020-12) of the configuration file: the keys, the values that they may hold, their
/// descriptions and their defaults. Rules about several keys together are not part of the schema.
pub fn schema() -> Value {
    let defaults = |scope| Object::of(inherited().filter(move |row| row.scope == scope), true);
    let (machine, policy) = (defaults(Scope::Machine), defaults(Scope::Policy));
    // A key that is inherited has no default of its own: its value comes from the level below.
    let shared = || Object::of(inherited(), false);
    let vm = Object::of(VmSpec::ROWS.iter().filter(|row| row.scope == Scope::Vm), true)
        .and(shared())
        .needs("name");
    let group = Object::of(GroupSpec::ROWS.iter(), true).and(shared()).needs("name");
    let group = group.with("vm", list(vm));
    let root = Object::default()
        .with("platform", Object::default().with("pepita", machine.schema()).schema())
        .with("supervisor", Object::of(TreeSpec::ROWS.iter(), true).schema())
        .with("defaults", policy.schema())
        .with("group", list(group));
    let mut schema = root.schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("pepita-supervisor configuration");
    schema
}

fn list(items: Object) -> Value {
    json!({ "type": "array", "items": items.schema() })
}

/// A table of the file.
#[derive(Debug, Default)]
struct Object {
    properties: Map<String, Value>,
    required: Vec<&'static str>,
}

impl Object {
    fn of<S: Keyed>(rows: impl Iterator<Item = &'static Row<S>>, with_default: bool) -> Self {
        let mut object = Self::default();
        for row in rows {
            let mut property = value(row.kind);
            property["description"] = json!(row.doc);
            if let Some(default) = row.default().filter(|_| with_default) {
                property["default"] = default;
            }
            let mut tables: Vec<&str> = row.name.split('.').collect();
            let key = tables.pop().unwrap_or_default();
            let mut properties = &mut object.properties;
            for table in tables {
                let inner = properties.entry(table).or_insert_with(|| Self::default().schema());
                properties = inner["properties"].as_object_mut().expect("the schema of a table");
            }
            properties.insert(key.to_owned(), property);
        }
        object
    }

    fn and(mut self, other: Self) -> Self {
        self.properties.extend(other.properties);
        self
    }

    fn with(mut self, key: &str, schema: Value) -> Self {
        self.properties.insert(key.to_owned(), schema);
        self
    }

    fn needs(mut self, key: &'static str) -> Self {
        self.required.push(key);
        self
    }

    fn schema(self) -> Value {
        let mut schema =
            json!({ "type": "object", "properties": self.properties, "additionalProperties": false });
        if !self.required.is_empty() {
            schema["required"] = json!(self.required);
        }
        schema
    }
}

fn value(kind: Kind) -> Value {
    let texts = || json!({ "type": "string" });
    match kind {
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Whole(min, u32::MAX) => json!({ "type": "integer", "minimum": min }),
        Kind::Whole(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Real(min, max) => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Duration | Kind::Period => json!({ "type": "string", "pattern": DURATION }),
        Kind::Word(words) => {
            let aliases = words.aliases.iter().map(|(alias, _)| alias);
            json!({ "enum": words.list.iter().chain(aliases).collect::<Vec<_>>() })
        }
        Kind::Name(cap) => json!({ "type": "string", "pattern": NAME, "maxLength": cap }),
        Kind::Path | Kind::Program | Kind::Image => json!({ "type": "string", "minLength": 1 }),
        Kind::Names | Kind::Command | Kind::Ports | Kind::Reach => {
            json!({ "type": "array", "items": texts() })
        }
        Kind::ExitCodes => {
            json!({ "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 255 } })
        }
        Kind::HttpPlace => json!({ "type": "string", "pattern": HTTP_PLACE }),
        Kind::Environment => json!({ "type": "object", "additionalProperties": texts() }),
        Kind::Cid => json!({ "type": "integer", "minimum": 3, "maximum": u32::MAX - 1 }),
        Kind::Signal => json!({ "type": ["string", "integer"] }),
        Kind::DiskName => json!({ "type": "string", "pattern": DISK_NAME, "maxLength": NAME_CAP }),
        Kind::Size => json!({ "type": "string", "pattern": SIZE }),
        Kind::Mount => json!({ "type": "string", "pattern": "^/." }),
        Kind::Tables(columns) => {
            let mut object = Object::default();
            for column in columns {
                let mut property = value(column.kind);
                property["description"] = json!(column.doc);
                object.properties.insert(column.name.to_owned(), property);
            }
            object.required =
                columns.iter().filter(|column| column.is_needed).map(|column| column.name).collect();
            list(object)
        }
        Kind::Hostname | Kind::User => json!({ "type": "string", "minLength": 1 }),
        Kind::Uids => json!({ "type": "string", "pattern": "^[0-9]+-[0-9]+$" }),
        Kind::GuestDirectory => json!({ "type": "string", "pattern": "^/" }),
        Kind::Ulimits => json!({
            "type": "object",
            "propertyNames": { "enum": ULIMITS },
            "additionalProperties": { "type": ["string", "integer"] },
        }),
        Kind::Sysctls => {
            json!({ "type": "object", "additionalProperties": { "type": ["string", "integer"] } })
        }
        Kind::Secrets => json!({ "type": "array", "items": { "type": "string", "pattern": "^[^=]+=." } }),
    }
}
