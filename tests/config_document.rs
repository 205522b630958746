//! Promise: `docs/config.md` has every key of the configuration, with its default and what the
//! source says of it. `UPDATE=1` writes it anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use pilotlight::Config;
use toml::Value;

/// Where structs of the configuration are.
const SOURCES: [&str; 3] = ["src/config.rs", "src/config/pools.rs", "src/config/requests.rs"];
/// Defaults that are not the same for everybody, and how to say them.
const SAID: [(&str, &str); 3] = [
    ("users.uids", "`[]`"),
    ("paths.state", "`/var/lib/pilotlight` for root, else `~/.local/state/pilotlight`"),
    (
        "paths.socket",
        "`/run/pilotlight/node.sock` for root, else `$XDG_RUNTIME_DIR/pilotlight/node.sock`",
    ),
];

const HEAD: &str = "\
# Configuration

`pilotlight serve --config FILE` reads TOML; every table and key may be left out. `pilotlight serve --config FILE
--check-config` says whether a node would start with it. Units are part of a key's name. Times are \
milliseconds unless the name says otherwise; sizes are of one shard where the text says so, else of the node.

This page is made from `src/config.rs` by `UPDATE=1 cargo nextest run --test config_document`.
";

struct Field {
    name: String,
    of: String,
    text: String,
}

/// The public fields of each public struct with what is written above them, and above the struct.
fn structs() -> BTreeMap<String, (String, Vec<Field>)> {
    let mut found = BTreeMap::new();
    for source in SOURCES {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(source)).unwrap();
        let (mut comment, mut open) = (Vec::new(), None::<String>);
        for line in text.lines() {
            let bare = line.trim();
            if let Some(said) = bare.strip_prefix("///") {
                comment.push(said.trim().to_owned());
            } else if let Some(name) = bare.strip_prefix("pub struct ") {
                let name = name.trim_end_matches('{').trim().to_owned();
                found.insert(name.clone(), (comment.join(" "), Vec::new()));
                (open, comment) = (Some(name), Vec::new());
            } else if line == "}" {
                (open, comment) = (None, Vec::new());
            } else if let (Some(name), Some(field)) = (&open, bare.strip_prefix("pub ")) {
                let (field, of) = field.trim_end_matches(',').split_once(": ").unwrap();
                let text = comment.join(" ");
                let field = Field { name: field.to_owned(), of: of.to_owned(), text };
                found.get_mut(name).unwrap().1.push(field);
                comment = Vec::new();
            } else if !bare.starts_with("#[") {
                comment = Vec::new();
            }
        }
    }
    found
}

fn document() -> String {
    let structs = structs();
    let defaults = Value::try_from(Config::default()).unwrap();
    let mut text = HEAD.to_owned();
    for table in &structs["Config"].1 {
        // One of many, each with a name.
        let of_many = table.of.strip_prefix("BTreeMap<User, ").map(|of| of.trim_end_matches('>'));
        let (about, fields) = &structs[of_many.unwrap_or(&table.of)];
        let suffix = if of_many.is_some() { ".NAME" } else { "" };
        write!(
            text,
            "\n## `[{}{suffix}]`\n\n{about}\n\n| key | default | |\n|---|---|---|\n",
            table.name
        )
        .unwrap();
        for field in fields {
            let key = format!("{}.{}", table.name, field.name);
            let said = SAID.iter().find(|(of, _)| *of == key).map(|(_, said)| (*said).to_owned());
            let value = defaults.get(&table.name).and_then(|table| table.get(&field.name));
            let default =
                said.unwrap_or_else(|| value.map_or("none".to_owned(), |it| format!("`{it}`")));
            assert!(!field.text.is_empty(), "{key} is not explained");
            let about = field.text.replace('|', "\\|");
            writeln!(text, "| `{}` | {default} | {about} |", field.name).unwrap();
        }
    }
    text
}

#[test]
fn the_document_is_what_the_source_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let wanted = document();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "UPDATE=1 cargo nextest run --test config_document writes it anew");
    let keys = wanted.lines().filter(|line| line.starts_with("| `")).count();
    assert!(keys > 60, "{keys} keys");
}

#[test]
fn a_configuration_is_checked_without_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let state = folder.path().join("state");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pilotlight"));
        command.args(["serve", "--check-config", "--config"]).arg(&file).arg("--state").arg(&state);
        let done = command.output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8(said).unwrap())
    };
    let (is_good, said) = check("[pools]\nwarm_target = 2\n");
    assert!(is_good && said.starts_with("ok: shards on cores"), "{said}");
    let (is_good, said) = check("[pools]\nwarm_tagret = 2\n");
    assert!(!is_good && said.contains("did you mean `warm_target`"), "{said}");
    let (is_good, said) = check("[cores]\nshards = [4095]\n");
    assert!(!is_good && said.contains("4095 is not among the cores"), "{said}");
    assert!(!state.exists(), "nothing is touched");
}
