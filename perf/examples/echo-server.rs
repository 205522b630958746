//! The server half of an echo baseline: `echo-server blocking|runtime SOCKET BYTES CORE`.

use std::io;

use perf::EchoKind;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, socket, bytes, core] = arguments.as_slice() else {
        return Err(io::Error::other("blocking|runtime SOCKET BYTES CORE"));
    };
    let kind = if kind == "runtime" { EchoKind::Runtime } else { EchoKind::Blocking };
    let number = |text: &str| text.parse().map_err(io::Error::other);
    let bytes = usize::try_from(number(bytes)?).map_err(io::Error::other)?;
    let core: u64 = number(core)?;
    kind.serve(socket.as_ref(), bytes, u32::try_from(core).map_err(io::Error::other)?)
}
