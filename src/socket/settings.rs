//! The settings of a function to deploy: the JSON text inside a deploy frame.

use serde::{Deserialize, Serialize};

use crate::invoke::{Contract, Freshness};

/// What the bytes of a package are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageForm {
    /// One executable file; it is stored under the name of the entry.
    #[default]
    Elf,
    /// A tar archive of a directory; the entry is a file in it.
    Tar,
}

/// How a function is to run. What is left out is the node's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// File that is executed.
    pub entry: String,
    /// The first argument; empty: the entry's base name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub argv0: String,
    /// What the package's bytes are.
    #[serde(default)]
    pub package: PackageForm,
    /// How the program meets its requests.
    #[serde(default)]
    pub contract: Contract,
    /// What a request finds of those before it.
    #[serde(default)]
    pub freshness: Freshness,
    /// Arguments behind the first.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Variables the program gets.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    /// Memory its container may use, MiB; 0: the node's default.
    #[serde(default)]
    pub memory_mib: u32,
    /// How long one invoke may take, milliseconds; 0: the node's default.
    #[serde(default)]
    pub timeout_millis: u64,
}
