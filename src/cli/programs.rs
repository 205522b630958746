//! Ordinary static Linux programs that `demo` and `bench` deploy like anybody's; `perf/programs`.

/// Contract `program`: answers a request with its own bytes.
pub(crate) static ECHO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/echo"));

/// Contract `stream`: answers each request with its own bytes.
pub(crate) static ECHO_STREAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/echo-stream"));

/// Contract `program`: does nothing, successfully.
pub(crate) static NOOP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/noop"));

/// Contract `program`: greets whom the request names and logs where it ran.
pub(crate) static GREET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/greet"));

/// Contract `stream`: as [`ECHO_STREAM`], and writes to 64 pages for each request.
pub(crate) static SCRIBBLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/scribble"));

/// Contract `stream`: logs as many lines as the request says, and answers with it.
pub(crate) static CHATTER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chatter"));
