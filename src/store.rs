//! The code store: packages by digest and functions by name, in a local directory.
//!
//! ```text
//! <state>/sha256/ab/abcd..ef          a package, named by its SHA-256
//! <state>/functions/<user>/<name>.json  a function: which package, how it runs
//! <state>/incoming/                   files being written; emptied at start
//! ```
//! Everything here blocks: it runs on the side thread. Invariants: a file under its final name is
//! whole (written aside, synced, renamed, directory synced); a package is used only as a sealed
//! copy whose digest was computed from the very bytes that went into it, so whatever happens to
//! the file later changes nothing; what the files say is not trusted.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use crate::config::{ARGUMENT_BYTES_MAX, ARGUMENTS_MAX, Config, TIMEOUT_MILLIS_MAX};
use crate::invoke::{ClientFault, Contract, Digest, Freshness, Function, FunctionName, User};
use crate::package::{self, Form, PackageError};
use crate::state::{StateError, StateLock};

/// Bytes copied and hashed at a time.
const CHUNK_BYTES: usize = 256 * 1024;
/// A function's record is refused beyond this: twice what arguments may have, for escapes.
const RECORD_BYTES_MAX: u64 = 4 * ARGUMENT_BYTES_MAX as u64;

/// A directory with packages and functions.
#[derive(Debug)]
pub struct Store {
    packages: PathBuf,
    functions: PathBuf,
    incoming: PathBuf,
    limits: Limits,
    /// Numbers the files in `incoming`.
    written: AtomicU64,
    _lock: StateLock,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    package_bytes_max: u64,
    functions_per_user_max: usize,
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
    pub fn code(&self) -> &'static str {
        match self {
            Self::Client(fault) => fault.code(),
            Self::Package(_) => "bad-package",
            Self::NoSuchPackage { .. } | Self::Damaged { .. } => "package-unavailable",
            Self::State(_) | Self::BadRecord { .. } | Self::Io { .. } => "store-failed",
        }
    }
}

impl Store {
    /// Opens the store in a state directory, making what is missing. Nobody else can as long as it
    /// lives.
    ///
    /// # Errors
    /// [`StoreError::State`] or [`StoreError::Io`] when the directory cannot be had, made or written.
    pub fn open(state: &Path, config: &Config) -> Result<Self, StoreError> {
        let requests = &config.requests;
        let store = Self {
            packages: state.join("sha256"),
            functions: state.join("functions"),
            incoming: state.join("incoming"),
            limits: Limits {
                package_bytes_max: requests.package_bytes_max,
                functions_per_user_max: usize::try_from(requests.functions_per_user_max)
                    .unwrap_or(usize::MAX),
                memory_mib_max: config.memory_mib_max(),
                memory_mib_default: requests.memory_mib_default,
                timeout_millis_default: requests.timeout_millis_default,
            },
            written: AtomicU64::new(0),
            _lock: StateLock::take(state).map_err(StoreError::State)?,
        };
        for directory in [&store.packages, &store.functions, &store.incoming] {
            make_directory(directory)?;
        }
        store.sweep()?;
        store.sweep_packages()?;
        Ok(store)
    }

    /// Removes files whose writing was cut short.
    fn sweep(&self) -> Result<(), StoreError> {
        for path in entries(&self.incoming)? {
            fs::remove_file(&path).map_err(|source| failed(&path, source))?;
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
        function.package = self.put_package(&package)?;
        // A record that cannot be read is healed by deploying again.
        if let Ok(Some(before)) = self.function(function.user, function.name) {
            function.version = before.version.saturating_add(1);
        }
        self.put_function(&function)?;
        Ok(function)
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
        self.check_count(deployment.user, deployment.name)?;
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

    fn check_count(&self, user: User, name: FunctionName) -> Result<(), StoreError> {
        let count_max = self.limits.functions_per_user_max;
        let is_new = !exists(&self.record(user, name))?;
        if is_new && entries(&self.functions.join(user.as_str()))?.len() >= count_max {
            let what = format!("user {user} has {count_max} functions already; remove one first");
            return Err(StoreError::Client(ClientFault::BadRequest { what }));
        }
        Ok(())
    }

    /// Stores a package under its digest; does nothing when it is there.
    fn put_package(&self, package: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest(Sha256::digest(package).into());
        let path = self.package_path(&digest);
        if exists(&path)? && is_whole(&path, package)? {
            return Ok(digest);
        }
        self.write(&path, package)?;
        Ok(digest)
    }

    fn put_function(&self, function: &Function) -> Result<(), StoreError> {
        let path = self.record(function.user, function.name);
        let text = serde_json::to_vec_pretty(function);
        let text = text.map_err(|error| failed(&path, io::Error::other(error)))?;
        self.write(&path, &text)
    }

    /// Writes a file so that under `path` there is at any time the old one or the new one, whole.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let directory = path.parent().unwrap_or(path);
        make_directory(directory)?;
        // Relaxed: the number only has to differ from others.
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let aside = self.incoming.join(format!("{}-{number}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&aside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&aside, path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| {
            // Best effort: the next start sweeps what is left.
            let _ = fs::remove_file(&aside);
            failed(path, source)
        })
    }

    /// Opens a package: a sealed memfd with exactly the bytes its digest names.
    ///
    /// # Errors
    /// [`StoreError::NoSuchPackage`], [`StoreError::Damaged`] when the file holds something else,
    /// or [`StoreError::Io`].
    pub fn open_package(&self, digest: &Digest) -> Result<OwnedFd, StoreError> {
        let path = self.package_path(digest);
        let file = File::open(&path).map_err(|source| match source {
            missing if missing.kind() == ErrorKind::NotFound => {
                StoreError::NoSuchPackage { digest: *digest }
            }
            source => failed(&path, source),
        })?;
        let memfd = region::sealed::unsealed("pilotlight-package");
        let mut memfd = File::from(memfd.map_err(|source| failed(&path, source))?);
        let found = copy_hashed(file, &mut memfd, self.limits.package_bytes_max);
        if found.map_err(|source| failed(&path, source))? != Some(*digest) {
            return Err(StoreError::Damaged { path });
        }
        region::sealed::freeze(&memfd).map_err(|source| failed(&path, source))?;
        Ok(memfd.into())
    }

    /// One function, if there is one of this name.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] or [`StoreError::Io`].
    pub fn function(&self, user: User, name: FunctionName) -> Result<Option<Function>, StoreError> {
        let path = self.record(user, name);
        if !exists(&path)? {
            return Ok(None);
        }
        let function = read_record(&path)?;
        if (function.user, function.name) != (user, name) {
            let what = "names another function than its file does".to_owned();
            return Err(StoreError::BadRecord { path, what });
        }
        Ok(Some(function))
    }

    /// A user's functions, by name.
    ///
    /// # Errors
    /// As for [`Store::function`].
    pub fn list(&self, user: User) -> Result<Vec<Function>, StoreError> {
        let names = self.names(user)?;
        let found = names.into_iter().map(|name| self.function(user, name));
        found.filter_map(Result::transpose).collect()
    }

    /// The names of a user's functions, in order.
    fn names(&self, user: User) -> Result<Vec<FunctionName>, StoreError> {
        let mut names = Vec::new();
        for path in entries(&self.functions.join(user.as_str()))? {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.and_then(|name| name.strip_suffix(".json"));
            names.extend(name.and_then(|name| FunctionName::new(name).ok()));
        }
        names.sort();
        Ok(names)
    }

    /// Every user's functions, and what is wrong with the records that cannot be read: one that is
    /// damaged concerns its own function only.
    ///
    /// # Errors
    /// [`StoreError::Io`] of a directory.
    pub fn functions(&self) -> Result<(Vec<Function>, Vec<StoreError>), StoreError> {
        let (mut functions, mut damaged) = (Vec::new(), Vec::new());
        for path in entries(&self.functions)? {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(user) = name.and_then(|name| User::new(name).ok()) else { continue };
            for name in self.names(user)? {
                match self.function(user, name) {
                    Ok(function) => functions.extend(function),
                    Err(error) => damaged.push(error),
                }
            }
        }
        Ok((functions, damaged))
    }

    /// Removes packages that no function names: their writing, or that of the record behind them,
    /// was cut short, or the node ended before it let go of them.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn sweep_packages(&self) -> Result<(), StoreError> {
        let (functions, damaged) = self.functions()?;
        if !damaged.is_empty() {
            return Ok(());
        }
        let used: HashSet<_> = functions.iter().map(|it| self.package_path(&it.package)).collect();
        for folder in entries(&self.packages)? {
            for path in entries(&folder)?.into_iter().filter(|path| !used.contains(path)) {
                fs::remove_file(&path).map_err(|source| failed(&path, source))?;
            }
        }
        Ok(())
    }

    /// Sorts functions by when they were deployed, the newest first.
    pub fn sort_newest_first(&self, functions: &mut [Function]) {
        functions.sort_by_cached_key(|function| {
            let record = fs::metadata(self.record(function.user, function.name));
            std::cmp::Reverse(record.and_then(|record| record.modified()).ok())
        });
    }

    /// Removes a function. Its package stays until [`Store::drop_unused`].
    ///
    /// # Errors
    /// [`ClientFault::UnknownFunction`] when there is none, or [`StoreError::Io`].
    pub fn remove(&self, user: User, name: FunctionName) -> Result<(), StoreError> {
        let path = self.record(user, name);
        if !exists(&path)? {
            return Err(StoreError::Client(ClientFault::UnknownFunction { user, name }));
        }
        // Gone for good: what a client was told is so after a loss of power too.
        let remove = || {
            fs::remove_file(&path)?;
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        remove().map_err(|source| failed(&path, source))
    }

    /// Removes a package unless a function names it, or a record that cannot be read may. VMs that
    /// have it loaded keep their copy.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn drop_unused(&self, digest: &Digest) -> Result<(), StoreError> {
        let (functions, damaged) = self.functions()?;
        if !damaged.is_empty() || functions.iter().any(|function| function.package == *digest) {
            return Ok(());
        }
        let path = self.package_path(digest);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(failed(&path, source)),
            _ => Ok(()),
        }
    }

    fn package_path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.packages.join(&name[..2]).join(name)
    }

    fn record(&self, user: User, name: FunctionName) -> PathBuf {
        self.functions.join(user.as_str()).join(format!("{name}.json"))
    }
}

/// Copies a file and says what the digest of the copied bytes is; `None`: more than there may be.
fn copy_hashed(mut from: File, to: &mut File, bytes_max: u64) -> io::Result<Option<Digest>> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = bytes_max;
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => return Ok(Some(Digest(hash.finalize().into()))),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let Some(rest) = left.checked_sub(u64::try_from(count).unwrap_or(u64::MAX)) else {
            return Ok(None);
        };
        left = rest;
        hash.update(&chunk[..count]);
        to.write_all(&chunk[..count])?;
    }
}

/// Whether a file holds exactly these bytes; a damaged one is to be written again.
fn is_whole(path: &Path, bytes: &[u8]) -> Result<bool, StoreError> {
    fs::read(path).map(|found| found == bytes).map_err(|source| failed(path, source))
}

fn read_record(path: &Path) -> Result<Function, StoreError> {
    let file = File::open(path).map_err(|source| failed(path, source))?;
    let mut text = Vec::new();
    file.take(RECORD_BYTES_MAX).read_to_end(&mut text).map_err(|source| failed(path, source))?;
    serde_json::from_slice(&text)
        .map_err(|error| StoreError::BadRecord { path: path.to_owned(), what: error.to_string() })
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
            Self::BadRecord { path, what } => write!(
                formatter,
                "{} {what}; remove the file and deploy the function again",
                path.display()
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
            Self::NoSuchPackage { .. } | Self::Damaged { .. } | Self::BadRecord { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::tests::program;
    use region::Contents;

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
        assert_eq!(store.list(function.user).unwrap(), std::slice::from_ref(&function));
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
        assert_eq!(packages(state.path()), [store.package_path(&kept.package)]);
        store.open_package(&kept.package).unwrap();
    }

    #[test]
    fn a_damaged_record_costs_its_own_function_only() {
        let state = tempfile::tempdir().unwrap();
        let store = open(state.path());
        store.deploy(&deployment("good"), &program(b"x")).unwrap();
        store.deploy(&deployment("bad"), &program(b"y")).unwrap();
        fs::write(state.path().join("functions/ann/bad.json"), b"{").unwrap();
        drop(store);
        let store = open(state.path());
        let (functions, damaged) = store.functions().unwrap();
        assert_eq!(functions.len(), 1);
        assert!(damaged[0].to_string().contains("functions/ann/bad.json"), "{damaged:?}");
        assert_eq!(packages(state.path()).len(), 2, "its package may be what the record named");
    }

    #[test]
    fn a_record_that_makes_no_sense_is_named() {
        let state = tempfile::tempdir().unwrap();
        let store = open(state.path());
        let function = store.deploy(&deployment("hello"), &program(b"x")).unwrap();
        let path = state.path().join("functions/ann/hello.json");
        fs::write(&path, b"{\"user\": \"../x\"}").unwrap();
        let error = store.list(function.user).unwrap_err();
        assert!(error.to_string().contains("functions/ann/hello.json"), "{error}");
        store.remove(function.user, function.name).unwrap();
        assert!(store.list(function.user).unwrap().is_empty());
    }

    #[test]
    fn limits_are_kept() {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.requests.functions_per_user_max = 1;
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
        assert_eq!(refused(&deployment("two")), "bad-request");
        store.deploy(&base, &program(b"y")).unwrap();
    }

    #[test]
    fn a_state_directory_that_cannot_be_made_is_named() {
        let error = Store::open(Path::new("/proc/nowhere"), &Config::default()).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_record_reads_back(
            entry in "[a-z]{1,20}",
            arguments in proptest::collection::vec("[^\\x00]{0,20}", 0..5),
            environment in proptest::collection::vec(("[A-Z]{1,9}", "[^\\x00]{0,9}"), 0..5),
            memory_mib in 1_u32..400,
            timeout_millis in 1..TIMEOUT_MILLIS_MAX,
        ) {
            let state = tempfile::tempdir().unwrap();
            let store = open(state.path());
            let deployment = Deployment {
                entry: &entry,
                arguments: &arguments,
                environment: &environment,
                memory_mib,
                timeout_millis,
                ..deployment("any")
            };
            let function = store.deploy(&deployment, &program(b"x")).unwrap();
            let read = store.function(function.user, function.name).unwrap();
            proptest::prop_assert_eq!(read, Some(function));
        }
    }
}
