//! A validator for the part of JSON Schema 2020-12 that the schemas of `docs/json-schema/` use. What it does not know it
//! refuses, so that no rule of a schema is passed over in silence.

use regex_automata::meta::Regex;
use serde_json::{Map, Value};

/// Keywords whose value is one schema.
const ONE: &[&str] = &["additionalProperties", "propertyNames", "items", "not", "if", "then", "else"];
/// Keywords whose value is a list of schemas.
const LISTS: &[&str] = &["allOf", "anyOf"];
/// Keywords whose value is an object of schemas.
const MAPS: &[&str] = &["properties", "$defs"];
/// Keywords that hold no schema and are checked in [`Schema::own`].
const OWN: &[&str] = &[
    "type",
    "const",
    "enum",
    "required",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "minLength",
    "pattern",
    "$ref",
];
/// Keywords that say something to people only.
const WORDS: &[&str] = &["$schema", "title", "description", "$comment"];

/// A schema all of whose keywords are known.
#[derive(Debug)]
pub(crate) struct Schema {
    root: Value,
}

impl Schema {
    /// # Errors
    /// The place of the first thing that this validator does not know or cannot make sense of.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let schema = Self { root: serde_json::from_str(text).map_err(|error| error.to_string())? };
        schema.known(&schema.root, "#")?;
        Ok(schema)
    }

    /// The schema as it was parsed.
    pub(crate) fn document(&self) -> &Value {
        &self.root
    }

    /// Everything that is wrong with `instance`, as `PLACE: WHAT`.
    pub(crate) fn complaints(&self, instance: &Value) -> Vec<String> {
        let mut complaints = Vec::new();
        self.check(&self.root, instance, "$", &mut complaints);
        complaints
    }

    fn known(&self, schema: &Value, place: &str) -> Result<(), String> {
        if schema.is_boolean() {
            return Ok(());
        }
        let rules = schema.as_object().ok_or(format!("{place} is no schema"))?;
        for (keyword, value) in rules {
            let (name, place) = (keyword.as_str(), format!("{place}/{keyword}"));
            let sense = |sense: bool| if sense { Ok(()) } else { Err(format!("{place} makes no sense")) };
            if ONE.contains(&name) {
                self.known(value, &place)?;
            } else if LISTS.contains(&name) {
                for (index, part) in value.as_array().ok_or(format!("{place} is no list"))?.iter().enumerate() {
                    self.known(part, &format!("{place}/{index}"))?;
                }
            } else if MAPS.contains(&name) {
                for (key, part) in value.as_object().ok_or(format!("{place} is no object"))? {
                    self.known(part, &format!("{place}/{key}"))?;
                }
            } else if OWN.contains(&name) {
                match name {
                    "$ref" => sense(self.definition(value).is_some())?,
                    "pattern" => sense(value.as_str().is_some_and(|pattern| Regex::new(pattern).is_ok()))?,
                    "type" => sense(types(value).all(|name| TYPES.contains(&name)) && types(value).next().is_some())?,
                    "enum" | "required" => sense(value.is_array())?,
                    "minItems" | "maxItems" | "minLength" => sense(value.is_u64())?,
                    "minimum" | "maximum" => sense(value.is_number())?,
                    _ => (),
                }
            } else if !WORDS.contains(&name) {
                return Err(format!("{place} is not a keyword that is known here"));
            }
        }
        Ok(())
    }

    fn definition(&self, reference: &Value) -> Option<&Value> {
        self.root.get("$defs")?.get(reference.as_str()?.strip_prefix("#/$defs/")?)
    }

    fn holds(&self, schema: &Value, instance: &Value) -> bool {
        let mut complaints = Vec::new();
        self.check(schema, instance, "$", &mut complaints);
        complaints.is_empty()
    }

    fn check(&self, schema: &Value, instance: &Value, place: &str, complaints: &mut Vec<String>) {
        let Some(rules) = schema.as_object() else {
            if schema == &Value::Bool(false) {
                complaints.push(format!("{place}: nothing may stand here"));
            }
            return;
        };
        for (keyword, value) in rules {
            if !self.own(keyword, value, instance, place, complaints) {
                complaints.push(format!("{place}: {keyword} {value} does not hold for {instance}"));
            }
        }
        self.parts(rules, instance, place, complaints);
        self.combined(rules, instance, place, complaints);
    }

    /// Whether a rule about `instance` alone holds; rules about its parts are not looked at.
    fn own(&self, keyword: &str, value: &Value, instance: &Value, place: &str, complaints: &mut Vec<String>) -> bool {
        let len = |list: &Vec<Value>| u64::try_from(list.len()).expect("a list that fits into memory");
        // A rule that is for another type holds.
        match keyword {
            "type" => types(value).any(|name| is(instance, name)),
            "const" => instance == value,
            "enum" => value.as_array().is_some_and(|values| values.contains(instance)),
            "required" => {
                let members = instance.as_object();
                let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
                for name in names.filter(|name| members.is_some_and(|members| !members.contains_key(*name))) {
                    complaints.push(format!("{place}.{name} is missing"));
                }
                true
            }
            "minItems" => instance.as_array().is_none_or(|list| Some(len(list)) >= value.as_u64()),
            "maxItems" => instance.as_array().is_none_or(|list| Some(len(list)) <= value.as_u64()),
            "minimum" => instance.as_f64().is_none_or(|number| Some(number) >= value.as_f64()),
            "maximum" => instance.as_f64().is_none_or(|number| Some(number) <= value.as_f64()),
            "minLength" => {
                instance.as_str().is_none_or(|text| u64::try_from(text.chars().count()).ok() >= value.as_u64())
            }
            "pattern" => instance.as_str().is_none_or(|text| {
                value.as_str().and_then(|pattern| Regex::new(pattern).ok()).is_some_and(|regex| regex.is_match(text))
            }),
            "$ref" => {
                if let Some(schema) = self.definition(value) {
                    self.check(schema, instance, place, complaints);
                }
                true
            }
            _ => true,
        }
    }

    /// The rules about members and elements.
    fn parts(&self, rules: &Map<String, Value>, instance: &Value, place: &str, complaints: &mut Vec<String>) {
        for (index, element) in instance.as_array().into_iter().flatten().enumerate() {
            if let Some(schema) = rules.get("items") {
                self.check(schema, element, &format!("{place}[{index}]"), complaints);
            }
        }
        for (name, member) in instance.as_object().into_iter().flatten() {
            let place = format!("{place}.{name}");
            if let Some(schema) = rules.get("propertyNames") {
                self.check(schema, &Value::from(name.as_str()), &place, complaints);
            }
            let named = rules.get("properties").and_then(|properties| properties.get(name));
            if let Some(schema) = named.or_else(|| rules.get("additionalProperties")) {
                self.check(schema, member, &place, complaints);
            }
        }
    }

    /// The rules that are made of other schemas for the same instance.
    fn combined(&self, rules: &Map<String, Value>, instance: &Value, place: &str, complaints: &mut Vec<String>) {
        for schema in rules.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.check(schema, instance, place, complaints);
        }
        if let Some(schemas) = rules.get("anyOf").and_then(Value::as_array)
            && !schemas.iter().any(|schema| self.holds(schema, instance))
        {
            complaints.push(format!("{place}: none of anyOf holds"));
        }
        if let Some(schema) = rules.get("not")
            && self.holds(schema, instance)
        {
            complaints.push(format!("{place}: not {schema}"));
        }
        if let Some(condition) = rules.get("if") {
            let branch = if self.holds(condition, instance) { "then" } else { "else" };
            if let Some(schema) = rules.get(branch) {
                self.check(schema, instance, place, complaints);
            }
        }
    }
}

/// Every type that an instance can have.
const TYPES: &[&str] = &["null", "boolean", "object", "array", "number", "integer", "string"];

/// The names in the value of `type`, which is one name or a list.
fn types(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(Value::as_str)
}

fn is(instance: &Value, name: &str) -> bool {
    match name {
        "null" => instance.is_null(),
        "boolean" => instance.is_boolean(),
        "object" => instance.is_object(),
        "array" => instance.is_array(),
        "number" => instance.is_number(),
        // A program in a language without integers may read `2.0`; this one writes none.
        "integer" => instance.is_u64() || instance.is_i64(),
        "string" => instance.is_string(),
        _ => false,
    }
}
