//! What holds for clients over their socket holds for clients in shared memory: the same tests,
//! whose clients attach (`support::node::TestNode::client`). Needs KVM.

#![allow(clippy::duplicate_mod, reason = "each of them brings its support along")]

#[path = "payloads.rs"]
mod payloads;
#[path = "stream_contract.rs"]
mod stream_contract;
#[path = "claim_c_request.rs"]
mod claim_c_request;
#[path = "shards.rs"]
mod shards;
