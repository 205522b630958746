//! Every code an error can have, in one list: for programs, and for whoever looks one up.
//! `docs/errors.md` is made from it.

use std::fmt;

/// Whose turn it is after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The client changes something.
    Client,
    /// The client asks again, later or at once.
    Again,
    /// The operator of the node changes something.
    Operator,
    /// Nobody: it was asked for.
    Nobody,
}

/// Makes the codes: name, text, whose turn, what happened, what to do.
macro_rules! codes {
    ($($name:ident $text:literal $turn:ident $meaning:literal $next_step:literal)*) => {
        /// What an error is, for programs. The text never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// All of them, those of one kind together.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whose turn it is.
            #[must_use]
            pub const fn turn(self) -> Turn {
                match self { $(Self::$name => Turn::$turn,)* }
            }

            /// What happened.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What to do.
            #[must_use]
            pub const fn next_step(self) -> &'static str {
                match self { $(Self::$name => $next_step,)* }
            }
        }
    };
}

codes! {
    // Between client and node.
    NoNode "no-node" Client
        "Nobody listens at the socket."
        "start a node with `pilotlight serve`, or name its socket with `--socket`"
    NoAccess "no-access" Operator
        "The socket may not be opened by this user."
        "add the user to the group of the socket"
    ConnectionClosed "connection-closed" Again
        "The node closed the connection: it stopped or crashed."
        "look at what the node said; ask again when it runs"
    ConnectionFailed "connection-failed" Again
        "The connection to the node failed."
        "ask again"
    ProtocolBroken "protocol-broken" Client
        "The other side does not speak this protocol."
        "use the same version of pilotlight on both sides"
    MalformedFrame "malformed-frame" Client
        "The bytes are no frame, or not one that may come now; the connection is closed."
        "correct the client: `docs/protocol.md` has every byte"
    UnsupportedVersion "unsupported-version" Client
        "No version of the protocol is spoken by both; the connection is closed."
        "use the same version of pilotlight on both sides"
    DuplicateRequest "duplicate-request" Client
        "The number belongs to an open request, or is 0; the connection is closed."
        "count requests up"
    TooManyRequests "too-many-requests" Client
        "As many requests of this connection are open as may be."
        "wait for an answer, or open another connection"
    TooSlow "too-slow" Client
        "Answers wait for the client and it does not read them; the connection is closed."
        "read answers while sending"

    // What is asked.
    NotAllowed "not-allowed" Operator
        "The client may not act for that user."
        "name no user, or have the operator list the client's user id in `[users]` or `access.operators`"
    UnknownFunction "unknown-function" Client
        "The user has no function of that name."
        "`pilotlight list` shows what there is, `pilotlight deploy` adds it"
    BadName "bad-name" Client
        "It is not 1 to 63 of `A-Z a-z 0-9 . _ -`, or starts with `.` or `-`."
        "use another name"
    BadRequest "bad-request" Client
        "The request makes no sense, or not now."
        "correct what the message names"
    BadLogging "bad-logging" Client
        "The logging service or its credentials make no sense."
        "correct what the message names"
    TooLarge "too-large" Client
        "A body, a response or a package has more bytes than it may have."
        "send less, or have the operator raise the limit the message names"
    OverLimit "over-limit" Client
        "With this the user would have more than their share."
        "remove something, or have the operator raise the limit the message names"
    TooMuchMemory "too-much-memory" Client
        "The function wants more memory than any VM of this node has."
        "deploy it with less `--memory`, or have the operator raise `vm.ram_mib`"
    Cancelled "cancelled" Nobody
        "The client withdrew the invoke before it ran."
        "nothing"

    // Programs.
    BadPackage "bad-package" Client
        "What was sent is no package that can run."
        "correct what the message names"
    Script "script" Client
        "The program is a `#!` script."
        "deploy the interpreter, a static ELF file, with the script as its argument or input"
    DynamicProgram "dynamic-program" Client
        "The program is a dynamic ELF file and needs a loader."
        "link it statically: `-static`, or for Rust a `musl` target"
    PackageUnavailable "package-unavailable" Client
        "The stored package is damaged or cannot be read."
        "deploy the function again"

    // Room and time.
    Busy "busy" Again
        "There is no room for it now; the message names the limit that was met."
        "ask again later, or have the operator raise that limit"
    Deadline "deadline" Again
        "The deadline passed before a VM was free."
        "ask again later, or with a longer `--timeout`"
    Stopping "stopping" Again
        "The node is shutting down."
        "ask another node, or this one when it runs again"

    // What went wrong with a VM.
    VmGone "vm-gone" Again
        "The VM crashed, or broke a rule and was ended; other VMs are not affected."
        "ask again"
    VmUnresponsive "vm-unresponsive" Again
        "The VM did not answer by the deadline and was ended."
        "ask again"
    VmLost "vm-lost" Again
        "The VM's process ended."
        "ask again"

    // The node.
    StoreFailed "store-failed" Operator
        "The code store could not do it; nothing was changed."
        "make room on the disk, or whatever the message names"
    NodeFault "node-fault" Operator
        "The node could not do its part."
        "look at what the node said"

    // Starting one.
    NoKvm "no-kvm" Operator
        "There is no `/dev/kvm`, or this user may not open it."
        "`pilotlight doctor` says which, and what to do"
    SocketInUse "socket-in-use" Operator
        "A node listens at the socket already."
        "stop it, or use another `--socket`"
    StateInUse "state-in-use" Operator
        "Another node uses the state directory."
        "stop it, or use another `--state`"
    NewerState "newer-state" Operator
        "The state directory is one of a newer pilotlight."
        "use a newer pilotlight, or another `--state`"
    BadConfiguration "bad-configuration" Operator
        "The configuration has an unknown key, or limits that do not fit each other."
        "correct what the message names; `pilotlight serve --check-config` tries it"
    StartFailed "start-failed" Operator
        "The host lacks something a node needs."
        "`pilotlight doctor` says what"

    // The command.
    Failed "failed" Client
        "The command could not do it, for a reason that has no code of its own."
        "the message says what"
}

impl Code {
    /// The code with this text.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl PartialEq<str> for Code {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Code {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_text_of_its_own() {
        for code in Code::ALL {
            assert_eq!(Code::find(code.as_str()), Some(*code));
            assert!(!code.meaning().is_empty() && !code.next_step().is_empty());
        }
        assert_eq!(Code::find("no-such-code"), None);
    }
}
