//! The code store: packages by digest and functions by name, in a local directory.
//!
//! ```text
//! <state>/sha256/ab/abcd..ef   a package, named by its SHA-256
//! <state>/functions.redb       the functions: which package, how it runs
//! <state>/incoming/            files being written; emptied at start
//! <state>/reserve              room on the disk, for removing when there is no other
//! ```
//! Everything here blocks: it runs on side threads. Invariants: what was told to be deployed or
//! removed is so after a loss of power too; what the files say is not trusted.

mod packages;
mod records;
mod reserve;

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use self::packages::Packages;
use self::records::{Record, Records};
use self::reserve::Reserve;
use crate::code::Code;
use crate::config::{ARGUMENT_BYTES_MAX, ARGUMENTS_MAX, Config, TIMEOUT_MILLIS_MAX};
use crate::invoke::{
    ClientFault, Contract, Digest, Freshness, Function, FunctionName, Limit, User,
};
use crate::package::{self, Form, PackageError};
use crate::state::{StateError, StateLock};

/// A directory with packages and functions.
#[derive(Debug)]
pub struct Store {
    packages: Packages,
    records: Records,
    reserve: Reserve,
    limits: Limits,
    _lock: StateLock,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    package_bytes_max: u64,
    package_bytes_per_user_max: u64,
    functions_per_user_max: u32,
    memory_mib_max: u32,
    memory_mib_default: u32,
    timeout_millis_default: u64,
}

/// A function to store, as a client describes it.
#[derive(Clone, Debug)]
pub struct Deployment<'a> {
    /// Whose it is.
    pub user: User,
    /// Its name.
    pub name: FunctionName,
    /// What the bytes are.
    pub form: Form,
    /// File that is executed.
    pub entry: &'a str,
    /// The first argument; empty: the entry's base name.
    pub argv0: &'a str,
    /// Arguments behind the first.
    pub arguments: &'a [String],
    /// Variables it gets.
    pub environment: &'a [(String, String)],
    /// How it meets requests.
    pub contract: Contract,
    /// What a request finds of those before it.
    pub freshness: Freshness,
    /// Memory its container may use, MiB; 0: the node's default.
    pub memory_mib: u32,
    /// How long one invoke may take, milliseconds; 0: the node's default.
    pub timeout_millis: u64,
}

/// Why the store did not do it.
#[derive(Debug)]
pub enum StoreError {
    /// The client has to change something.
    Client(ClientFault),
    /// What was sent is no package that can run.
    Package(PackageError),
    /// The store has no such package.
    NoSuchPackage {
        /// Which.
        digest: Digest,
    },
    /// A package's file no longer holds what its name says.
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The state directory cannot be used.
    State(StateError),
    /// A function's record makes no sense.
    BadRecord {
        /// The file.
        path: PathBuf,
        /// What about it.
        what: String,
    },
    /// The directory is one of a program that knows more than this one.
    NewerSchema {
        /// The file that says so.
        path: PathBuf,
        /// Version of its schema.
        version: u64,
    },
    /// The database of the records did not do it.
    Records {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: Box<redb::Error>,
    },
    /// The file system did not do it.
    Io {
        /// On which path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl StoreError {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Client(fault) => fault.code(),
            Self::Package(fault) => fault.code(),
            Self::NoSuchPackage { .. } | Self::Damaged { .. } => Code::PackageUnavailable,
            Self::State(StateError::InUse { .. }) => Code::StateInUse,
            Self::NewerSchema { .. } => Code::NewerState,
            Self::State(_) | Self::BadRecord { .. } | Self::Records { .. } | Self::Io { .. } => {
                Code::StoreFailed
            }
        }
    }

    fn is_disk_full(&self) -> bool {
        let is_full = |error: &io::Error| error.kind() == ErrorKind::StorageFull;
        match self {
            Self::Io { source, .. } => is_full(source),
            Self::Records { source, .. } => {
                matches!(source.as_ref(), redb::Error::Io(error) if is_full(error))
            }
            Self::Client(_)
            | Self::Package(_)
            | Self::NoSuchPackage { .. }
            | Self::Damaged { .. }
            | Self::State(_)
            | Self::BadRecord { .. }
            | Self::NewerSchema { .. } => false,
        }
    }
}

impl Store {
    /// Opens the store in a state directory, making what is missing. Nobody else can as long as it
    /// lives.
    ///
    /// # Errors
    /// [`StoreError`] when the directory cannot be had, made, read or written.
    pub fn open(state: &Path, config: &Config) -> Result<Self, StoreError> {
        let requests = &config.requests;
        let lock = StateLock::take(state).map_err(StoreError::State)?;
        let (packages, incoming) = (state.join("sha256"), state.join("incoming"));
        for directory in [&packages, &incoming] {
            make_directory(directory)?;
        }
        // Files whose writing was cut short.
        for path in entries(&incoming)? {
            fs::remove_file(&path).map_err(|source| failed(&path, source))?;
        }
        let store = Self {
            records: Records::open(state, &incoming)?,
            reserve: Reserve::new(state.join("reserve")),
            packages: Packages::new(packages, incoming, requests.package_bytes_max),
            limits: Limits {
                package_bytes_max: requests.package_bytes_max,
                package_bytes_per_user_max: requests.package_bytes_per_user_max,
                functions_per_user_max: requests.functions_per_user_max,
                memory_mib_max: config.memory_mib_max(),
                memory_mib_default: requests.memory_mib_default,
                timeout_millis_default: requests.timeout_millis_default,
            },
            _lock: lock,
        };
        store.sweep_packages()?;
        store.reserve.keep();
        Ok(store)
    }

    /// Removes packages that no function names: their writing, or that of the record behind them,
    /// was cut short, or the node ended before it let go of them.
    fn sweep_packages(&self) -> Result<(), StoreError> {
        let (records, damaged) = self.records.all()?;
        // What a damaged one names is not known.
        if damaged.is_empty() {
            self.packages.keep_only(records.iter().map(|record| &record.function.package))?;
        }
        Ok(())
    }

    /// Stores a function and its package, in place of one of the same name. The package of that one
    /// stays until [`Store::drop_unused`].
    ///
    /// # Errors
    /// [`StoreError`]; nothing is stored then, except perhaps a package nobody names.
    pub fn deploy(
        &self,
        deployment: &Deployment<'_>,
        bytes: &[u8],
    ) -> Result<Function, StoreError> {
        let mut function = self.check(deployment)?;
        let package =
            package::make(deployment.form, deployment.entry, bytes, self.limits.package_bytes_max)
                .map_err(StoreError::Package)?;
        function.package_bytes = u64::try_from(package.len()).unwrap_or(u64::MAX);
        self.check_share(&function)?;
        // A record that cannot be read is healed by deploying again.
        if let Ok(Some(before)) = self.records.get(function.user, function.name) {
            function.version = before.function.version.saturating_add(1);
        }
        function.package = self.packages.put(&package)?;
        let record = Record::now(function);
        if let Err(error) = self.records.put(&record) {
            // Best effort: the next start sweeps what is left.
            let _ = self.drop_unused(&record.function.package);
            return Err(error);
        }
        Ok(record.function)
    }

    /// Checks everything but the package, and fills in defaults.
    fn check(&self, deployment: &Deployment<'_>) -> Result<Function, StoreError> {
        let bad = |what: String| Err(StoreError::Client(ClientFault::BadRequest { what }));
        let limits = &self.limits;
        let or_default = |given, default| if given == 0 { default } else { given };
        let memory_mib = or_default(deployment.memory_mib, limits.memory_mib_default);
        if memory_mib > limits.memory_mib_max {
            let memory_mib_max = limits.memory_mib_max;
            let fault = ClientFault::TooMuchMemory { memory_mib, memory_mib_max };
            return Err(StoreError::Client(fault));
        }
        let timeout_millis = match deployment.timeout_millis {
            0 => limits.timeout_millis_default,
            millis => millis,
        };
        if timeout_millis > TIMEOUT_MILLIS_MAX {
            return bad(format!("the timeout may be at most {} s", TIMEOUT_MILLIS_MAX / 1000));
        }
        let (arguments, environment) = (deployment.arguments, deployment.environment);
        let base_name = deployment.entry.rsplit('/').next().unwrap_or("");
        let name = if deployment.argv0.is_empty() { base_name } else { deployment.argv0 };
        let texts = arguments.iter().chain(environment.iter().flat_map(|(n, v)| [n, v]));
        let bytes: usize = texts.clone().map(|text| text.len() + 8).sum();
        let bytes = bytes + name.len();
        if arguments.len().max(environment.len()) >= ARGUMENTS_MAX || bytes > ARGUMENT_BYTES_MAX {
            return bad(format!(
                "arguments and environment may be {ARGUMENTS_MAX} each and {ARGUMENT_BYTES_MAX} \
                 bytes together"
            ));
        }
        let own = [deployment.entry, name];
        if base_name.is_empty()
            || texts.map(String::as_str).chain(own).any(|text| text.contains('\0'))
        {
            return bad("entry, arguments and environment may not be empty or hold NUL".to_owned());
        }
        if environment.iter().any(|(name, _)| name.is_empty() || name.contains('=')) {
            return bad("a variable's name may not be empty or hold `=`".to_owned());
        }
        if deployment.form == Form::Elf && deployment.entry.contains('/') {
            return bad("the entry of a single file is a plain name".to_owned());
        }
        Ok(Function {
            user: deployment.user,
            name: deployment.name,
            version: 1,
            package: Digest([0; 32]),
            package_bytes: 0,
            entry: deployment.entry.to_owned(),
            arguments: [name.to_owned()].into_iter().chain(arguments.iter().cloned()).collect(),
            environment: environment.to_vec(),
            contract: deployment.contract,
            freshness: deployment.freshness,
            memory_mib,
            timeout_millis,
        })
    }

    /// Checks that with this function its user has no more than their share.
    fn check_share(&self, function: &Function) -> Result<(), StoreError> {
        let (records, damaged) = self.records.of(function.user)?;
        let others = records.iter().map(|record| &record.function);
        let others = others.filter(|other| other.name != function.name);
        let count = others.clone().count() + damaged.len();
        let bytes: u64 = others.map(|other| other.package_bytes).sum();
        let over = |what: &str, key, value| {
            let limit = Limit { key, value };
            let what = format!("{what} of user {}", function.user);
            Err(StoreError::Client(ClientFault::OverLimit { what, limit }))
        };
        let Limits { functions_per_user_max, package_bytes_per_user_max, .. } = self.limits;
        if count >= functions_per_user_max as usize {
            let value = u64::from(functions_per_user_max);
            return over("functions", "requests.functions_per_user_max", value);
        }
        if bytes.saturating_add(function.package_bytes) > package_bytes_per_user_max {
            let key = "requests.package_bytes_per_user_max";
            return over("bytes of packages", key, package_bytes_per_user_max);
        }
        Ok(())
    }

    /// Opens a package: a sealed memfd with exactly the bytes its digest names.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPackage`], [`StoreError::Damaged`] when the file holds something else,
    /// or [`StoreError::Io`].
    pub fn open_package(&self, digest: &Digest) -> Result<OwnedFd, StoreError> {
        self.packages.open(digest)
    }

    /// Every user's functions, those deployed last first, and what is wrong with the records that
    /// cannot be read: one that is damaged concerns its own function only.
    ///
    /// # Errors
    /// [`StoreError::Records`].
    pub fn functions(&self) -> Result<(Vec<Function>, Vec<StoreError>), StoreError> {
        let (mut records, damaged) = self.records.all()?;
        records.sort_by_key(|record| std::cmp::Reverse(record.deployed_unix_millis));
        Ok((records.into_iter().map(|record| record.function).collect(), damaged))
    }

    /// Removes a function. Its package stays until [`Store::drop_unused`].
    ///
    /// # Errors
    /// [`ClientFault::UnknownFunction`] when there is none, or [`StoreError::Records`].
    pub fn remove(&self, user: User, name: FunctionName) -> Result<(), StoreError> {
        let removed = match self.records.remove(user, name) {
            Err(error) if error.is_disk_full() && self.reserve.spend() => {
                self.records.remove(user, name)
            }
            done => done,
        };
        match removed? {
            true => Ok(()),
            false => Err(StoreError::Client(ClientFault::UnknownFunction { user, name })),
        }
    }

    /// Removes a package unless a function names it, or a record that cannot be read may. VMs that
    /// have it loaded keep their copy.
    ///
    /// # Errors
    /// [`StoreError::Records`] or [`StoreError::Io`].
    pub fn drop_unused(&self, digest: &Digest) -> Result<(), StoreError> {
        let (records, damaged) = self.records.all()?;
        if !damaged.is_empty() || records.iter().any(|it| it.function.package == *digest) {
            return Ok(());
        }
        self.packages.remove(digest)?;
        self.reserve.keep();
        Ok(())
    }
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    let make = || -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(path)?;
        // Programs and settings of several users: nobody else's business.
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    make().map_err(|source| failed(path, source))
}

/// The paths in a directory, in order; none if it does not exist.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = match fs::read_dir(directory) {
        Ok(list) => list,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(directory, source)),
    };
    let paths = list.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<_> =
        paths.collect::<io::Result<_>>().map_err(|source| failed(directory, source))?;
    paths.sort();
    Ok(paths)
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|source| failed(path, source))
}

/// Whether the system did not let the database work; else what is in the file is wrong.
fn is_of_system(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(error) if error.kind() != ErrorKind::InvalidData)
}

fn failed(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), source }
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(fault) => fault.fmt(formatter),
            Self::Package(error) => error.fmt(formatter),
            Self::State(error) => error.fmt(formatter),
            Self::NoSuchPackage { digest } => {
                write!(formatter, "the store has no package {digest}; deploy the function again")
            }
            Self::Damaged { path } => write!(
                formatter,
                "{} does not hold what its name says; deploy the function again",
                path.display()
            ),
            Self::BadRecord { path, what } => {
                write!(formatter, "{} {what}; deploy the function again", path.display())
            }
            Self::NewerSchema { path, version } => write!(
                formatter,
                "{} has schema version {version} and this pilotlight knows none above {}; use a \
                 newer pilotlight, or another --state",
                path.display(),
                records::SCHEMA
            ),
            Self::Records { path, source } => write!(
                formatter,
                "cannot use {}: {source}; {}",
                path.display(),
                if is_of_system(source) {
                    "does the node's user own it, and is there room?"
                } else {
                    "put back a copy of it, or move it away and deploy the functions again"
                }
            ),
            Self::Io { path, source } => write!(
                formatter,
                "cannot use {}: {source}; does the node's user own it, and is there room?",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client(fault) => Some(fault),
            Self::Package(error) => Some(error),
            Self::State(error) => Some(error),
            Self::Io { source, .. } => Some(source),
            Self::Records { source, .. } => Some(source.as_ref()),
            Self::NoSuchPackage { .. }
            | Self::Damaged { .. }
            | Self::BadRecord { .. }
            | Self::NewerSchema { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::tests::program;
    use region::Contents;
    use sha2::{Digest as _, Sha256};

    fn deployment(name: &str) -> Deployment<'static> {
        Deployment {
            user: User::new("ann").unwrap(),
            name: FunctionName::new(name).unwrap(),
            form: Form::Elf,
            entry: "tool",
            argv0: "",
            arguments: &[],
            environment: &[],
            contract: Contract::Program,
            freshness: Freshness::Reuse,
            memory_mib: 0,
            timeout_millis: 0,
        }
    }

    fn open(state: &Path) -> Store {
        Store::open(state, &Config::default()).unwrap()
    }

    fn packages(state: &Path) -> Vec<PathBuf> {
        let folders = entries(&state.join("sha256")).unwrap();
        folders.iter().flat_map(|folder| entries(folder).unwrap()).collect()
    }

    #[test]
    fn what_is_deployed_is_there_after_opening_again() {
        let state = tempfile::tempdir().unwrap();
        let arguments = ["-v".to_owned()];
        let deployment = Deployment { arguments: &arguments, ..deployment("hello") };
        let function = open(state.path()).deploy(&deployment, &program(b"x")).unwrap();
        assert_eq!(function.arguments, ["tool", "-v"]);
        assert_eq!((function.memory_mib, function.timeout_millis), (128, 3000));
        let store = open(state.path());
        assert_eq!(store.functions().unwrap().0, std::slice::from_ref(&function));
        let contents = Contents::map(store.open_package(&function.package).unwrap()).unwrap();
        assert_eq!(contents.len() as u64, function.package_bytes);
        assert_eq!(Digest(Sha256::digest(&*contents).into()), function.package);
        let other = Deployment { argv0: "wc", ..deployment };
        assert_eq!(store.deploy(&other, &program(b"x")).unwrap().arguments, ["wc", "-v"]);
    }

    #[test]
    fn a_package_changed_on_disk_is_refused_and_healed_by_deploying() {
        let state = tempfile::tempdir().unwrap();
        let store = open(state.path());
        let function = store.deploy(&deployment("hello"), &program(b"x")).unwrap();
        let path = packages(state.path()).remove(0);
        let opened = store.open_package(&function.package).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[600] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = store.open_package(&function.package).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        let opened = Contents::map(opened).unwrap();
        assert_eq!(Digest(Sha256::digest(&*opened).into()), function.package, "sealed before");
        store.deploy(&deployment("hello"), &program(b"x")).unwrap();
        store.open_package(&function.package).unwrap();
    }

    #[test]
    fn packages_live_as_long_as_a_function_names_them() {
        let state = tempfile::tempdir().unwrap();
        let store = open(state.path());
        let user = User::new("ann").unwrap();
        let x = store.deploy(&deployment("one"), &program(b"x")).unwrap().package;
        store.deploy(&deployment("two"), &program(b"x")).unwrap();
        assert_eq!(packages(state.path()).len(), 1, "same program, one package");
        store.deploy(&deployment("two"), &program(b"y")).unwrap();
        store.drop_unused(&x).unwrap();
        assert_eq!(packages(state.path()).len(), 2, "one still names it");
        store.remove(user, FunctionName::new("one").unwrap()).unwrap();
        assert_eq!(packages(state.path()).len(), 2, "an invoke may still need it");
        store.drop_unused(&x).unwrap();
        assert_eq!(packages(state.path()).len(), 1);
        store.drop_unused(&x).unwrap();
        let again = store.remove(user, FunctionName::new("one").unwrap()).unwrap_err();
        assert_eq!(again.code(), "unknown-function");
    }

    #[test]
    fn writing_that_was_cut_short_leaves_nothing() {
        let state = tempfile::tempdir().unwrap();
        open(state.path());
        fs::write(state.path().join("incoming/1-1"), b"half").unwrap();
        open(state.path());
        assert!(entries(&state.path().join("incoming")).unwrap().is_empty());
    }

    #[test]
    fn packages_that_nothing_names_are_removed_at_the_next_start() {
        let state = tempfile::tempdir().unwrap();
        let store = open(state.path());
        store.deploy(&deployment("one"), &program(b"x")).unwrap();
        store.deploy(&deployment("one"), &program(b"y")).unwrap();
        assert_eq!(packages(state.path()).len(), 2, "it ended before it let go of the first");
        drop(store);
        let store = open(state.path());
        let kept = &store.functions().unwrap().0[0];
        assert_eq!(packages(state.path()), [store.packages.path(&kept.package)]);
        store.open_package(&kept.package).unwrap();
    }

    #[test]
    fn a_damaged_record_costs_its_own_function_only() {
        let state = tempfile::tempdir().unwrap();
        let store = open(state.path());
        store.deploy(&deployment("good"), &program(b"x")).unwrap();
        store.deploy(&deployment("bad"), &program(b"y")).unwrap();
        store.records.spoil("ann", "bad", b"{");
        drop(store);
        let store = open(state.path());
        let (functions, damaged) = store.functions().unwrap();
        assert_eq!(functions.len(), 1);
        assert!(damaged[0].to_string().contains("ann's function bad"), "{damaged:?}");
        assert_eq!(packages(state.path()).len(), 2, "its package may be what the record named");
        store.deploy(&deployment("bad"), &program(b"y")).unwrap();
        assert_eq!(store.functions().unwrap().0.len(), 2, "healed");
        store.records.spoil("ann", "bad", br#"{"user": "../x"}"#);
        store.remove(functions[0].user, FunctionName::new("bad").unwrap()).unwrap();
        assert!(store.functions().unwrap().1.is_empty(), "or removed");
    }

    #[test]
    fn limits_are_kept() {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.requests.functions_per_user_max = 1;
        let other = tempfile::tempdir().unwrap();
        let xyz = open(other.path()).deploy(&deployment("one"), &program(b"xyz")).unwrap();
        config.requests.package_bytes_per_user_max = xyz.package_bytes;
        let store = Store::open(state.path(), &config).unwrap();
        let refused = |deployment: &Deployment<'_>| {
            store.deploy(deployment, &program(b"x")).unwrap_err().code()
        };
        let base = deployment("one");
        assert_eq!(refused(&Deployment { memory_mib: 5000, ..base.clone() }), "too-much-memory");
        assert_eq!(refused(&Deployment { entry: "a/b", ..base.clone() }), "bad-request");
        assert_eq!(refused(&Deployment { entry: "..", ..base.clone() }), "bad-package");
        let timeout_millis = TIMEOUT_MILLIS_MAX + 1;
        assert_eq!(refused(&Deployment { timeout_millis, ..base.clone() }), "bad-request");
        let environment = [("A=B".to_owned(), String::new())];
        let with_bad_name = Deployment { environment: &environment, ..base.clone() };
        assert_eq!(refused(&with_bad_name), "bad-request");
        let arguments = ["x".repeat(ARGUMENT_BYTES_MAX)];
        assert_eq!(refused(&Deployment { arguments: &arguments, ..base.clone() }), "bad-request");
        store.deploy(&base, &program(b"x")).unwrap();
        let error = store.deploy(&deployment("two"), &program(b"x")).unwrap_err();
        assert_eq!(error.code(), "over-limit");
        assert!(error.to_string().contains("requests.functions_per_user_max"), "{error}");
        store.deploy(&base, &program(b"xyz")).unwrap();
        let error = store.deploy(&base, &program(&[b'x'; 9000])).unwrap_err();
        assert_eq!(error.code(), "over-limit");
        assert!(error.to_string().contains("requests.package_bytes_per_user_max"), "{error}");
        assert_eq!(packages(state.path()).len(), 2, "what is refused is not stored");
    }

    #[test]
    fn the_newest_come_first() {
        let state = tempfile::tempdir().unwrap();
        let store = open(state.path());
        for (name, millis) in [("a", 2), ("b", 3), ("c", 1)] {
            let function = store.deploy(&deployment(name), &program(b"x")).unwrap();
            store.records.put(&Record { deployed_unix_millis: millis, function }).unwrap();
        }
        let names: Vec<_> =
            store.functions().unwrap().0.iter().map(|it| it.name.to_string()).collect();
        assert_eq!(names, ["b", "a", "c"]);
    }

    #[test]
    fn a_state_directory_that_cannot_be_made_is_named() {
        let error = Store::open(Path::new("/proc/nowhere"), &Config::default()).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    }
}
