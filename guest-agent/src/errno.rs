//! Linux error numbers (x86-64 `asm-generic/errno.h`), as system calls return them.

/// Why a system call failed. The number is positive; a program sees it negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// The number as in `errno.h`.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The error with this number, when it is one the kernel may return (1 to 4095).
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        if number >= 1 && number < 4096 { Some(Self(number)) } else { None }
    }
}

/// Names and numbers, one row each.
#[rustfmt::skip]
#[expect(missing_docs, reason = "the names are the documentation: errno.h without the E")]
impl Errno {
    pub const PERM: Self = Self(1);
    pub const NOENT: Self = Self(2);
    pub const SRCH: Self = Self(3);
    pub const INTR: Self = Self(4);
    pub const IO: Self = Self(5);
    pub const NXIO: Self = Self(6);
    pub const TOOBIG: Self = Self(7);
    pub const NOEXEC: Self = Self(8);
    pub const BADF: Self = Self(9);
    pub const CHILD: Self = Self(10);
    pub const AGAIN: Self = Self(11);
    pub const NOMEM: Self = Self(12);
    pub const ACCES: Self = Self(13);
    pub const FAULT: Self = Self(14);
    pub const BUSY: Self = Self(16);
    pub const EXIST: Self = Self(17);
    pub const XDEV: Self = Self(18);
    pub const NODEV: Self = Self(19);
    pub const NOTDIR: Self = Self(20);
    pub const ISDIR: Self = Self(21);
    pub const INVAL: Self = Self(22);
    pub const NFILE: Self = Self(23);
    pub const MFILE: Self = Self(24);
    pub const NOTTY: Self = Self(25);
    pub const TXTBSY: Self = Self(26);
    pub const FBIG: Self = Self(27);
    pub const NOSPC: Self = Self(28);
    pub const SPIPE: Self = Self(29);
    pub const ROFS: Self = Self(30);
    pub const MLINK: Self = Self(31);
    pub const PIPE: Self = Self(32);
    pub const DOM: Self = Self(33);
    pub const RANGE: Self = Self(34);
    pub const DEADLK: Self = Self(35);
    pub const NAMETOOLONG: Self = Self(36);
    pub const NOLCK: Self = Self(37);
    pub const NOSYS: Self = Self(38);
    pub const NOTEMPTY: Self = Self(39);
    pub const LOOP: Self = Self(40);
    pub const NODATA: Self = Self(61);
    pub const PROTO: Self = Self(71);
    pub const OVERFLOW: Self = Self(75);
    pub const NOTSOCK: Self = Self(88);
    pub const DESTADDRREQ: Self = Self(89);
    pub const MSGSIZE: Self = Self(90);
    pub const PROTOTYPE: Self = Self(91);
    pub const NOPROTOOPT: Self = Self(92);
    pub const PROTONOSUPPORT: Self = Self(93);
    pub const SOCKTNOSUPPORT: Self = Self(94);
    pub const OPNOTSUPP: Self = Self(95);
    pub const AFNOSUPPORT: Self = Self(97);
    pub const ADDRINUSE: Self = Self(98);
    pub const ADDRNOTAVAIL: Self = Self(99);
    pub const NETDOWN: Self = Self(100);
    pub const NETUNREACH: Self = Self(101);
    pub const CONNABORTED: Self = Self(103);
    pub const CONNRESET: Self = Self(104);
    pub const NOBUFS: Self = Self(105);
    pub const ISCONN: Self = Self(106);
    pub const NOTCONN: Self = Self(107);
    pub const SHUTDOWN: Self = Self(108);
    pub const TIMEDOUT: Self = Self(110);
    pub const CONNREFUSED: Self = Self(111);
    pub const HOSTUNREACH: Self = Self(113);
    pub const ALREADY: Self = Self(114);
    pub const INPROGRESS: Self = Self(115);
}
