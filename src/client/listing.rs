//! A user's functions, as a node lists them.

use serde::{Deserialize, Serialize};

use crate::invoke::Function;

/// What a node has of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Functions, by name.
    pub functions: Vec<Function>,
    /// Their snapshots, in the same order; empty from a node that knows no such thing.
    #[serde(default)]
    pub snapshots: Vec<SnapshotListing>,
    /// Versions that were replaced or removed while invokes were open, as the shard that was asked
    /// knows them.
    #[serde(default)]
    pub finishing: Vec<Finishing>,
}

/// A version on which invokes finish that came before it was replaced or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finishing {
    /// The version.
    pub function: Function,
    /// Its open invokes.
    pub invokes: u64,
}

/// What a node knows of a function's snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotListing {
    /// The function.
    pub name: String,
    /// `absent` (not made yet, or gone to make room), `made` or `failed`.
    pub state: String,
    /// Bytes it takes, when it is made.
    #[serde(default)]
    pub bytes: u64,
    /// Why there can be none, when it failed.
    #[serde(default)]
    pub reason: String,
}
