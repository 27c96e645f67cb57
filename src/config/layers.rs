//! The three places a setting can come from (file, environment, flags), laid over each other. Knows which options
//! exist and what shape their values have, but not what makes sense.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::gms::mask::{self, Masks};
use crate::{admin, archive, proxy, recorder, telemetry};

use super::problems::{Origin, Problem, nearest};
use super::written::{Key, options};
use super::{Config, Flags, VARIABLE_PREFIX};

/// A file of more than this is not a configuration: every option with all its remarks takes a hundredth.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The variables that stand for the flags, beside the ones that every option has.
const SHORT_VARIABLES: [(&str, &str, &str); 4] = [
    ("GMS_RECORDER_LISTEN", "proxy", "listen"),
    ("GMS_RECORDER_UPSTREAM", "proxy", "upstreams"),
    ("GMS_RECORDER_DATABASE", "recording", "database"),
    ("GMS_RECORDER_ADMIN", "admin", "listen"),
];

/// One value and where it was given.
#[derive(Debug)]
struct Setting {
    value: Value,
    origin: Origin,
    /// Where each element of a list or of a table stands, where that is known more closely.
    elements: Vec<Origin>,
}

impl Setting {
    fn new(value: Value, origin: Origin) -> Self {
        Self { value, origin, elements: Vec::new() }
    }
}

/// The settings that hold, and what was wrong with any.
pub(super) struct Layers {
    /// Every option with its default: what exists, and in what shape.
    known: Vec<(Key, Value)>,
    settings: BTreeMap<Key, Setting>,
    problems: Vec<Problem>,
    is_file_read: bool,
}

impl Layers {
    /// Later layers win: file, then environment, then flags.
    pub(super) fn lay(file: Option<&Path>, variables: impl Iterator<Item = (String, String)>, flags: &Flags) -> Self {
        let mut layers = Self {
            known: options(&Config::default()),
            settings: BTreeMap::new(),
            problems: Vec::new(),
            is_file_read: file.is_none(),
        };
        if let Some(file) = file {
            layers.lay_file(file);
        }
        layers.lay_variables(variables);
        layers.lay_flags(flags);
        layers.drop_wrong_values();
        layers
    }

    /// The sections of the settings that can be read.
    pub(super) fn config(&self) -> Config {
        let masking: mask::Config = self.section("masking");
        // Rules that are wrong are objected to where sense is looked for.
        let masks = Masks::new(&masking).unwrap_or_default();
        Config {
            proxy: self.section("proxy"),
            limits: self.section("limits"),
            nodes: self.section("nodes"),
            tls: self.section("tls"),
            node_tls: self.section("node_tls"),
            recording: recorder::Config { masks, ..self.section("recording") },
            masking,
            evidence: self.section("evidence"),
            retention: self.section("retention"),
            export: self.section("export"),
            admin: self.section("admin"),
            log: self.section("log"),
        }
    }

    fn section<T: DeserializeOwned>(&self, section: &str) -> T {
        let settings = self.settings.iter().filter(|(key, _)| key.section == section);
        let table: Table = settings.map(|(key, setting)| (key.name.to_string(), setting.value.clone())).collect();
        table.try_into().expect("each of its settings was read by itself, and none depends on another")
    }

    /// An option by name, where it is known to exist.
    fn key(&self, section: &str, name: &str) -> Option<Key> {
        self.known.iter().map(|(key, _)| *key).find(|key| key.section == section && key.name == name)
    }

    fn default(&self, key: Key) -> &Value {
        let known = self.known.iter().find(|(known, _)| *known == key);
        &known.expect("keys are only made from the list of options").1
    }

    /// Where each option was set that was.
    pub(super) fn origins(&self) -> BTreeMap<Key, Origin> {
        self.settings.iter().map(|(key, setting)| (*key, setting.origin.clone())).collect()
    }

    /// False for a file that is missing or no TOML: what it would have set is unknown, and nothing follows from that.
    pub(super) fn is_file_read(&self) -> bool {
        self.is_file_read
    }

    /// What is wrong so far.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Whether something about this option was objected to already: one complaint at a time.
    fn is_wrong(&self, key: Key) -> bool {
        self.problems.iter().any(|problem| problem.key.as_deref() == Some(&key.to_string()))
    }

    /// The value of an option, or one element of a list, makes no sense.
    pub(super) fn object(&mut self, section: &str, name: &str, element: Option<usize>, sentence: String) {
        let key = self.key(section, name).expect("checks name options that exist");
        let setting = self.settings.get(&key);
        let origin = setting.map(|s| element.and_then(|n| s.elements.get(n)).unwrap_or(&s.origin).clone());
        self.problems.push(Problem { origin, key: Some(key.to_string()), sentence });
    }

    /// Like [`Layers::object`], for what follows from a whole option and would only repeat an earlier complaint.
    pub(super) fn object_once(&mut self, section: &str, name: &str, sentence: String) {
        if !self.key(section, name).is_some_and(|key| self.is_wrong(key)) {
            self.object(section, name, None, sentence);
        }
    }

    fn lay_file(&mut self, file: &Path) {
        let path = file.display().to_string();
        match read(file) {
            Ok(text) => self.lay_text(&path, &text),
            Err(error) => {
                let sentence = format!("{path}: the configuration cannot be read: {error}");
                self.problems.push(Problem { origin: None, key: None, sentence });
            }
        }
    }

    fn lay_text(&mut self, path: &str, text: &str) {
        let at = |offset: usize| Origin::File { path: path.into(), line: line_of(text, offset) };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let origin = error.span().map(|span| at(span.start));
            self.problems.push(Problem { origin, key: None, sentence: error.message().replace('\n', ", ") });
        }
        if !errors.is_empty() {
            return; // what could still be read of it would be half of what was meant
        }
        self.is_file_read = true;
        for (section, content) in table.get_ref() {
            match content.get_ref() {
                DeValue::Table(settings) => {
                    self.lay_section(section.get_ref(), settings, at(section.span().start), &at)
                }
                _ => self.object_to_stray(section.get_ref(), at(section.span().start)),
            }
        }
    }

    fn lay_section(&mut self, section: &str, settings: &DeTable<'_>, origin: Origin, at: &dyn Fn(usize) -> Origin) {
        if !self.known.iter().any(|(key, _)| key.section == section) {
            let known = self.known.iter().map(|(key, _)| key.section);
            let remedy = match nearest(section, known) {
                Some(known) => format!("did you mean [{known}]?"),
                None => {
                    "there are [proxy], [limits], [nodes], [tls], [node_tls], [recording], [masking], [evidence], [retention], [export], [admin] and [log]"
                        .into()
                }
            };
            let problem = Problem {
                origin: Some(origin),
                key: Some(section.into()),
                sentence: format!("unknown section; {remedy}"),
            };
            return self.problems.push(problem);
        }
        for (name, value) in settings {
            let origin = at(name.span().start);
            match self.key(section, name.get_ref()) {
                Some(key) => drop(self.settings.insert(key, setting(value, origin, at))),
                None => self.object_to_unknown(section, name.get_ref(), origin),
            }
        }
    }

    /// A key outside of any section.
    fn object_to_stray(&mut self, name: &str, origin: Origin) {
        let home = self.known.iter().find(|(key, _)| key.name == name);
        let sentence = match home {
            _ if self.known.iter().any(|(key, _)| key.section == name) => format!("is a section: write [{name}]"),
            Some((key, _)) => format!("stands in no section; it belongs under [{}]", key.section),
            None => {
                "unknown key, and in no section; there are [proxy], [limits], [nodes], [tls], [node_tls], [recording], [masking], [evidence], [retention], [export], [admin] and [log]"
                    .into()
            }
        };
        self.problems.push(Problem { origin: Some(origin), key: Some(name.into()), sentence });
    }

    fn object_to_unknown(&mut self, section: &str, name: &str, origin: Origin) {
        let siblings = || self.known.iter().filter(|(key, _)| key.section == section).map(|(key, _)| key.name);
        let elsewhere = self.known.iter().find(|(key, _)| key.name == name);
        let remedy = match (nearest(name, siblings()), elsewhere) {
            (Some(known), _) => format!("did you mean {known}?"),
            (None, Some((key, _))) => format!("it belongs under [{}]", key.section),
            (None, None) => format!("[{section}] has {}", siblings().collect::<Vec<_>>().join(", ")),
        };
        let sentence = format!("unknown key; {remedy}");
        self.problems.push(Problem { origin: Some(origin), key: Some(format!("{section}.{name}")), sentence });
    }

    fn lay_variables(&mut self, variables: impl Iterator<Item = (String, String)>) {
        let is_ours = |name: &str, value: &str| name.starts_with(VARIABLE_PREFIX) && !is_service_link(name, value);
        let mut ours: Vec<_> = variables.filter(|(name, value)| is_ours(name, value)).collect();
        // The short ones last: they win over the long ones.
        ours.sort_by_key(|(name, _)| (SHORT_VARIABLES.iter().any(|(short, ..)| short == name), name.clone()));
        for (name, value) in ours {
            self.lay_variable(name, &value);
        }
    }

    fn lay_variable(&mut self, name: String, value: &str) {
        if name == super::CONFIG_VARIABLE {
            return; // named the file
        }
        let short = SHORT_VARIABLES.iter().find(|(short, ..)| *short == name);
        let key = match short {
            Some((_, section, option)) => self.key(section, option),
            None => self.known.iter().map(|(key, _)| *key).find(|key| key.variable() == name),
        };
        let origin = Origin::Environment(name);
        match key {
            Some(key) => {
                let value = from_variable(value, self.default(key));
                self.settings.insert(key, Setting::new(value, origin));
            }
            None => self.object_to_variable(origin),
        }
    }

    fn object_to_variable(&mut self, origin: Origin) {
        let name = origin.to_string();
        let known: Vec<String> = self.known.iter().map(|(key, _)| key.variable()).collect();
        let short = SHORT_VARIABLES.iter().map(|(short, ..)| *short).chain([super::CONFIG_VARIABLE]);
        // Only what follows the prefix is compared: it would make everything look alike.
        let tails = known.iter().map(String::as_str).chain(short).filter_map(|name| name.strip_prefix(VARIABLE_PREFIX));
        let remedy = match name.strip_prefix(VARIABLE_PREFIX).and_then(|tail| nearest(tail, tails)) {
            Some(tail) => format!("did you mean {VARIABLE_PREFIX}{tail}?"),
            None => format!("variables are named {VARIABLE_PREFIX}<SECTION>_<KEY>, such as {}", known[0]),
        };
        let sentence = format!("unknown variable; {remedy}");
        self.problems.push(Problem { origin: Some(origin), key: None, sentence });
    }

    fn lay_flags(&mut self, flags: &Flags) {
        let text = |value: &String| Value::String(value.clone());
        let upstreams = (!flags.upstreams.is_empty()).then(|| Value::Array(flags.upstreams.iter().map(text).collect()));
        // A path that is not UTF-8 is caught like a variable that is not: by the replacement character.
        let database = flags.database.as_ref().map(|path| Value::String(path.to_string_lossy().into_owned()));
        let given = [
            ("--listen", "proxy", "listen", flags.listen.as_ref().map(text)),
            ("--upstream", "proxy", "upstreams", upstreams),
            ("--database", "recording", "database", database),
            ("--admin", "admin", "listen", flags.admin.as_ref().map(text)),
        ];
        for (flag, section, name, value) in given {
            let key = self.key(section, name).expect("flags name options that exist");
            if let Some(value) = value {
                self.settings.insert(key, Setting::new(value, Origin::Flag(flag)));
            }
        }
    }

    /// Reads every setting by itself, so that each wrong one is said, and the others still take part in the checks.
    fn drop_wrong_values(&mut self) {
        let mut problems = Vec::new();
        let known = &self.known;
        self.settings.retain(|key, setting| {
            let default = &known.iter().find(|(known, _)| known == key).expect("only known keys are laid").1;
            let before = problems.len();
            problems.extend(wrong_values(*key, setting, default));
            problems.len() == before
        });
        self.problems.extend(problems);
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn setting(value: &Spanned<DeValue<'_>>, origin: Origin, at: &dyn Fn(usize) -> Origin) -> Setting {
    let elements = match value.get_ref() {
        DeValue::Array(array) => array.iter().map(|element| at(element.span().start)).collect(),
        DeValue::Table(table) => {
            // In the order of their names, which a plain table has.
            let places: BTreeMap<_, _> = table.iter().map(|(name, _)| (name.get_ref(), name.span().start)).collect();
            places.into_values().map(at).collect()
        }
        _ => Vec::new(),
    };
    Setting { value: plain(value.get_ref()), origin, elements }
}

/// The value without its place in the file. What no option takes becomes a number that is none, which no option takes.
fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(switch) => Value::Boolean(*switch),
        DeValue::Array(values) => Value::Array(values.iter().map(|value| plain(value.get_ref())).collect()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Float(f64::NAN), Value::Integer)
        }
        DeValue::Table(table) => {
            let members = table.iter().map(|(name, value)| (name.get_ref().to_string(), plain(value.get_ref())));
            Value::Table(members.collect())
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Datetime(_) => Value::Float(f64::NAN),
    }
}

/// Kubernetes gives every container variables for each Service of its namespace, and a Service of ours is likely named
/// `gms-recorder`: `GMS_RECORDER_SERVICE_HOST`, `GMS_RECORDER_PORT=tcp://10.0.0.1:80`, `GMS_RECORDER_PORT_80_TCP_ADDR`.
fn is_service_link(name: &str, value: &str) -> bool {
    let names_port = |part: &str| part.starts_with(|digit: char| digit.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT") && value.contains("://")
        || name.split("_PORT_").skip(1).any(names_port)
}

/// A variable holds text only; the option's default says what it stands for. A list is separated by commas; a table is
/// written as in the braces of TOML: `name = 'text', name = 'text'`.
fn from_variable(text: &str, default: &Value) -> Value {
    let verbatim = || Value::String(text.into());
    match default {
        Value::Array(_) => {
            let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
            Value::Array(elements.map(|element| Value::String(element.into())).collect())
        }
        Value::Integer(_) => text.trim().parse().map_or_else(|_| verbatim(), Value::Integer),
        Value::Float(_) => text.trim().parse().map_or_else(|_| verbatim(), Value::Float),
        Value::Table(_) => {
            let table = format!("it = {{ {text} }}").parse::<Table>();
            table.ok().and_then(|mut table| table.remove("it")).unwrap_or_else(verbatim)
        }
        Value::Boolean(_) => text.trim().parse().map_or_else(|_| verbatim(), Value::Boolean),
        _ => verbatim(),
    }
}

fn wrong_values(key: Key, setting: &Setting, default: &Value) -> Vec<Problem> {
    let problem =
        |origin: &Origin, sentence| Problem { origin: Some(origin.clone()), key: Some(key.to_string()), sentence };
    let origin = |n| setting.elements.get(n).unwrap_or(&setting.origin);
    if let (Value::Table(_), Value::Table(members)) = (default, &setting.value)
        && !is_of_tables(key)
        && members.values().any(|value| !value.is_str())
    {
        let wrong = members.iter().enumerate().filter(|(_, (_, value))| !value.is_str());
        return wrong.map(|(n, (name, value))| problem(origin(n), wrong_member(name, value))).collect();
    }
    if let Some(sentence) = wrong_shape(key, &setting.value, default, &setting.origin) {
        return vec![problem(&setting.origin, sentence)];
    }
    let elements: Vec<Value> = match &setting.value {
        Value::Array(elements) => elements.iter().map(|element| Value::Array(vec![element.clone()])).collect(),
        Value::Table(members) => {
            members.iter().map(|(name, member)| Table::from_iter([(name.clone(), member.clone())]).into()).collect()
        }
        value => {
            let sentence = wrong_value(key, value, default);
            return sentence.map(|sentence| problem(&setting.origin, sentence)).into_iter().collect();
        }
    };
    let wrong = |(n, element): (usize, &Value)| Some(problem(origin(n), wrong_value(key, element, default)?));
    elements.iter().enumerate().filter_map(wrong).collect()
}

/// Tables of tables; what each of those has to be is known to their own type.
fn is_of_tables(key: Key) -> bool {
    matches!((key.section, key.name), ("evidence", "anchors") | ("export", "targets"))
}

fn wrong_member(name: &str, value: &Value) -> String {
    let given = match value {
        Value::Integer(_) | Value::Boolean(_) => value.to_string(),
        Value::Array(_) => "a list".into(),
        _ => "no text".into(),
    };
    format!("{name} is {given}; a text in single quotes is wanted, such as {name} = '…'")
}

fn wrong_shape(key: Key, value: &Value, default: &Value, origin: &Origin) -> Option<String> {
    match (default, value) {
        (Value::String(_), Value::String(_)) | (Value::Boolean(_), Value::Boolean(_)) => None,
        (Value::Integer(_), Value::Integer(0..)) => None,
        (Value::Float(_), Value::Float(number)) if number.is_finite() => None,
        (Value::Float(_), Value::Integer(_)) => None,
        (Value::Array(_), Value::Array(elements)) if elements.iter().all(Value::is_str) => None,
        (Value::Table(_), Value::Table(members)) if is_of_tables(key) && members.values().all(Value::is_table) => None,
        (Value::Table(_), _) if is_of_tables(key) => Some(match key.section {
            "export" => "tables are wanted, such as [export.targets.smarsh] with format = \"eml\" under it".into(),
            _ => "tables are wanted, such as [evidence.anchors.audit] with kind = \"file\" under it".into(),
        }),
        (Value::Table(_), Value::Table(_)) => None, // its members were looked at
        (Value::Table(_), Value::String(text)) if matches!(origin, Origin::Environment(_)) => Some(format!(
            "\"{text}\" cannot be read; wanted are names and texts in single quotes, as in name = '…', other = '…'"
        )),
        (Value::Table(_), _) => Some("a table of texts is wanted, such as { name = '…' }".into()),
        (Value::String(_), _) => Some(format!("a text in quotes is wanted, such as {default}")),
        (Value::Integer(_), _) => Some(format!("a whole number from 0 is wanted, such as {default}")),
        (Value::Float(_), _) => Some(format!("a number is wanted, such as {default}")),
        (Value::Boolean(_), _) => Some("true or false is wanted".into()),
        _ => Some("a list of texts is wanted, such as [\"…\", \"…\"]".into()),
    }
}

/// Asks the section's own type, and says its objection in our words.
fn wrong_value(key: Key, value: &Value, default: &Value) -> Option<String> {
    if value.to_string().contains(char::REPLACEMENT_CHARACTER) {
        return Some("is not UTF-8".into());
    }
    let table = Table::from_iter([(key.name.to_string(), value.clone())]);
    let outcome = match key.section {
        "proxy" => table.try_into::<proxy::Config>().err(),
        "limits" => table.try_into::<proxy::limits::Config>().err(),
        "nodes" => table.try_into::<proxy::nodes::Config>().err(),
        "tls" => table.try_into::<proxy::tls::server::Config>().err(),
        "node_tls" => table.try_into::<proxy::tls::connector::Config>().err(),
        "recording" => table.try_into::<recorder::Config>().err(),
        "masking" => table.try_into::<mask::Config>().err(),
        "evidence" => table.try_into::<archive::Config>().err(),
        "retention" => table.try_into::<archive::retention::Config>().err(),
        "export" => table.try_into::<archive::delivery::Config>().err(),
        "admin" => table.try_into::<admin::Config>().err(),
        _ => table.try_into::<telemetry::Config>().err(),
    };
    let outcome = outcome?;
    Some(match value.as_table().filter(|_| is_of_tables(key)).and_then(|table| table.keys().next()) {
        Some(name) => format!("{name}: {}", of_a_table(key, outcome.message())),
        None => in_our_words(key, value, outcome.message(), default),
    })
}

/// What serde says of a table's members; never with their values, which were meant for other places.
fn of_a_table(key: Key, message: &str) -> String {
    // What tells the kinds of anchors apart is none of their own options.
    let kind = if key.section == "evidence" { ", kind" } else { "" };
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.split(' ').next(), &quoted[..]) {
        (Some("unknown"), [unknown, known @ ..]) if message.starts_with("unknown field") => {
            match nearest(unknown, known.iter().copied()) {
                Some(known) => format!("unknown key {unknown}; did you mean {known}?"),
                None => format!("unknown key {unknown}; there are {}{kind}", known.join(", ")),
            }
        }
        (Some("unknown"), [unknown, known @ ..]) => {
            let known = known.iter().map(|known| format!("\"{known}\"")).collect::<Vec<_>>().join(", ");
            format!("\"{unknown}\" cannot be chosen; there is {known}")
        }
        (Some("missing"), [missing]) => format!("{missing} is missing"),
        _ => message.into(),
    }
}

fn in_our_words(key: Key, value: &Value, message: &str, default: &Value) -> String {
    let value = value.as_array().and_then(|elements| elements.first()).unwrap_or(value);
    if let Some((_, expected)) =
        message.split_once("unknown variant").and_then(|(_, rest)| rest.split_once("expected "))
    {
        return format!("{value} cannot be chosen; there is {}", expected.replace('`', "\""));
    }
    if message.contains("is not a") {
        return message.into(); // the units' own sentences say what would be right
    }
    let example = match key.name {
        "trusted_proxies" => "a network such as \"10.0.0.0/8\", or \"10.0.0.7/32\" for one address".into(),
        "listen" => format!("an address and a port, such as {default}"),
        _ => default.to_string(),
    };
    format!("{value} cannot be read ({message}); wanted is {example}")
}
