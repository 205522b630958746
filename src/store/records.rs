//! The records of functions: what is deployed under which name, in one file of an embedded database
//! (redb), so that a change is there whole or not at all, whenever the node or the machine ends.
//!
//! Its schema has a version. A state directory of an older one is brought to this one when it is
//! opened, a newer one is left alone and refused. Invariant: a file under its final name has the
//! schema and everything that was in its predecessor; it is made aside and renamed.
//!
//! | schema | |
//! |---|---|
//! | 1 | `functions/<user>/<name>.json`, one function each |
//! | 2 | `functions.redb`: table `schema`, table `functions` from (user, name) to a record in JSON |

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{StoreError, entries, exists, failed};
use crate::invoke::{Function, FunctionName, User};

/// The schema this program writes.
pub(super) const SCHEMA: u64 = 2;

const FILE: &str = "functions.redb";
/// Where schema 1 had its records.
const FOLDER: &str = "functions";

const SCHEMA_TABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("schema");
const SCHEMA_KEY: &str = "version";
const FUNCTIONS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("functions");

/// Thousands of functions fit; nothing here is on the way of an invoke.
const CACHE_BYTES: usize = 4 << 20;

/// A function and when it was deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Milliseconds since 1970.
    pub(super) deployed_unix_millis: u64,
    pub(super) function: Function,
}

impl Record {
    /// Of a function that is deployed now.
    pub(super) fn now(function: Function) -> Self {
        Self { deployed_unix_millis: unix_millis(SystemTime::now()), function }
    }
}

/// The database, opened.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    /// `None` after an error: redb does not go on behind one, but opening it anew may succeed, as
    /// when a full disk has room again.
    database: Mutex<Option<Database>>,
}

/// Those that can be read, and what is wrong with each of the others.
pub(super) type Found = (Vec<Record>, Vec<StoreError>);

impl Records {
    /// Opens the records in a state directory; `aside` is a folder for files that are being written.
    /// Without any, there are none; those of an older schema are taken over.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`], [`StoreError::Records`] or [`StoreError::Io`].
    pub(super) fn open(state: &Path, aside: &Path) -> Result<Self, StoreError> {
        let path = state.join(FILE);
        let old = state.join(FOLDER);
        if !exists(&path)? {
            let (records, damaged) = read_folder(&old)?;
            for error in damaged {
                tracing::warn!(error = error.to_string(), "a stored function is left out");
            }
            make(&path, aside, &records)?;
        }
        let records = Self { database: Mutex::new(None), path };
        records.check_schema()?;
        discard_folder(&old)?;
        Ok(records)
    }

    fn check_schema(&self) -> Result<(), StoreError> {
        let found = self.with(|database| {
            let table = database.begin_read()?.open_table(SCHEMA_TABLE)?;
            Ok(table.get(SCHEMA_KEY)?.map(|value| value.value()))
        })?;
        match found {
            Some(SCHEMA) => Ok(()),
            Some(version) if version > SCHEMA => {
                Err(StoreError::NewerSchema { path: self.path.clone(), version })
            }
            Some(_) | None => Err(StoreError::BadRecord {
                path: self.path.clone(),
                what: format!("has no schema that was ever written: {found:?}"),
            }),
        }
    }

    /// Does something with the database, opening it if need be; behind an error it is opened anew.
    fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut database = self.lock();
        let done = match &mut *database {
            Some(database) => act(database),
            closed @ None => open_file(&self.path).and_then(|opened| act(closed.insert(opened))),
        };
        done.map_err(|source| {
            *database = None;
            StoreError::Records { path: self.path.clone(), source: Box::new(source) }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        // Whoever panicked held no half-made change: those are the database's transactions.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record of one name, if there is one.
    pub(super) fn get(&self, user: User, name: FunctionName) -> Result<Option<Record>, StoreError> {
        let text = self.with(|database| {
            let table = database.begin_read()?.open_table(FUNCTIONS)?;
            Ok(table.get((user.as_str(), name.as_str()))?.map(|value| value.value().to_vec()))
        })?;
        text.map(|text| decode(&self.path, (user.as_str(), name.as_str()), &text)).transpose()
    }

    /// Writes a record in place of another of its name; it is on disk when this returns.
    pub(super) fn put(&self, record: &Record) -> Result<(), StoreError> {
        let text = encode(record);
        let key = (record.function.user.as_str(), record.function.name.as_str());
        self.with(|database| {
            let change = database.begin_write()?;
            change.open_table(FUNCTIONS)?.insert(key, text.as_slice())?;
            Ok(change.commit()?)
        })
    }

    /// Removes a record; whether there was one. It is gone for good when this returns.
    pub(super) fn remove(&self, user: User, name: FunctionName) -> Result<bool, StoreError> {
        self.with(|database| {
            let change = database.begin_write()?;
            let was_there =
                change.open_table(FUNCTIONS)?.remove((user.as_str(), name.as_str()))?.is_some();
            change.commit()?;
            Ok(was_there)
        })
    }

    /// All records of one user, by name.
    pub(super) fn of(&self, user: User) -> Result<Found, StoreError> {
        self.find(|owner| owner == user.as_str())
    }

    /// All records, by user and name.
    pub(super) fn all(&self) -> Result<Found, StoreError> {
        self.find(|_| true)
    }

    fn find(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Found, StoreError> {
        let texts = self.with(|database| {
            let table = database.begin_read()?.open_table(FUNCTIONS)?;
            let mut texts = Vec::new();
            for entry in table.iter()? {
                let (key, text) = entry?;
                let (user, name) = key.value();
                if is_wanted(user) {
                    texts.push(((user.to_owned(), name.to_owned()), text.value().to_vec()));
                }
            }
            Ok(texts)
        })?;
        let mut found = Found::default();
        for ((user, name), text) in texts {
            match decode(&self.path, (&user, &name), &text) {
                Ok(record) => found.0.push(record),
                Err(error) => found.1.push(error),
            }
        }
        Ok(found)
    }

    /// Writes bytes where a record is: what a damaged one is.
    #[cfg(test)]
    pub(super) fn spoil(&self, user: &str, name: &str, bytes: &[u8]) {
        self.with(|database| {
            let change = database.begin_write()?;
            change.open_table(FUNCTIONS)?.insert((user, name), bytes)?;
            Ok(change.commit()?)
        })
        .unwrap();
    }
}

fn open_file(path: &Path) -> Result<Database, redb::Error> {
    // What a disk or a hand altered is to be an error here, not a surprise later.
    let opened = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .open(path);
    Ok(opened?)
}

/// Makes the file with these records in it.
fn make(path: &Path, aside: &Path, records: &[Record]) -> Result<(), StoreError> {
    let aside = aside.join(FILE);
    write_new(&aside, records)
        .map_err(|source| StoreError::Records { path: aside.clone(), source: Box::new(source) })?;
    let publish = || {
        fs::rename(&aside, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    publish().map_err(|source| failed(path, source))
}

fn write_new(path: &Path, records: &[Record]) -> Result<(), redb::Error> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
    let change = database.begin_write()?;
    change.open_table(SCHEMA_TABLE)?.insert(SCHEMA_KEY, SCHEMA)?;
    {
        let mut table = change.open_table(FUNCTIONS)?;
        for record in records {
            let Function { user, name, .. } = &record.function;
            table.insert((user.as_str(), name.as_str()), encode(record).as_slice())?;
        }
    }
    change.commit()?;
    Ok(database.close()?)
}

fn encode(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record is text, numbers and lists of them")
}

/// What a record says, if that is about its own function.
fn decode(path: &Path, (user, name): (&str, &str), text: &[u8]) -> Result<Record, StoreError> {
    let bad = |what: String| StoreError::BadRecord {
        path: path.to_owned(),
        what: format!("has a record of {user}'s function {name} that {what}"),
    };
    let record: Record =
        serde_json::from_slice(text).map_err(|error| bad(format!("cannot be read: {error}")))?;
    let Function { user: owner, name: own, .. } = record.function;
    if (owner.as_str(), own.as_str()) != (user, name) {
        return Err(bad("names another one".to_owned()));
    }
    Ok(record)
}

fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The records of schema 1.
fn read_folder(folder: &Path) -> Result<Found, StoreError> {
    let mut found = Found::default();
    for user in entries(folder)? {
        for path in entries(&user)? {
            match read_file(&path) {
                Ok(record) => found.0.push(record),
                Err(error) => found.1.push(error),
            }
        }
    }
    Ok(found)
}

fn read_file(path: &Path) -> Result<Record, StoreError> {
    let text = fs::read(path).map_err(|source| failed(path, source))?;
    let bad = |what: String| StoreError::BadRecord { path: path.to_owned(), what };
    let function: Function = serde_json::from_slice(&text)
        .map_err(|error| bad(format!("is no record of a function: {error}")))?;
    let own = Path::new(function.user.as_str()).join(format!("{}.json", function.name));
    if !path.ends_with(own) {
        return Err(bad("names another function than its file does".to_owned()));
    }
    let modified = fs::metadata(path).and_then(|file| file.modified()).unwrap_or(UNIX_EPOCH);
    Ok(Record { deployed_unix_millis: unix_millis(modified), function })
}

/// Removes the files of schema 1 that were taken over; others stay, for whoever wants to look.
fn discard_folder(folder: &Path) -> Result<(), StoreError> {
    for user in entries(folder)? {
        for path in entries(&user)? {
            if read_file(&path).is_ok() {
                fs::remove_file(&path).map_err(|source| failed(&path, source))?;
            }
        }
        remove_empty(&user)?;
    }
    remove_empty(folder)
}

fn remove_empty(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir(folder) {
        Err(error)
            if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) =>
        {
            Err(failed(folder, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoke::{Contract, Digest, Freshness};

    fn record(user: &str, name: &str) -> Record {
        Record::now(Function {
            user: User::new(user).unwrap(),
            name: FunctionName::new(name).unwrap(),
            version: 3,
            package: Digest([7; 32]),
            package_bytes: 9,
            entry: "tool".to_owned(),
            arguments: vec!["tool".to_owned()],
            environment: vec![("A".to_owned(), "b".to_owned())],
            contract: Contract::Stream,
            freshness: Freshness::Fork,
            memory_mib: 64,
            timeout_millis: 1000,
        })
    }

    fn open(state: &Path) -> Result<Records, StoreError> {
        fs::create_dir_all(state.join("incoming")).unwrap();
        Records::open(state, &state.join("incoming"))
    }

    fn write_old(state: &Path, record: &Record) {
        let Function { user, name, .. } = &record.function;
        let folder = state.join(FOLDER).join(user.as_str());
        fs::create_dir_all(&folder).unwrap();
        let text = serde_json::to_vec_pretty(&record.function).unwrap();
        fs::write(folder.join(format!("{name}.json")), text).unwrap();
    }

    #[test]
    fn what_is_put_is_there_after_opening_again_and_what_is_removed_is_not() {
        let state = tempfile::tempdir().unwrap();
        let records = open(state.path()).unwrap();
        let (one, two, other) = (record("ann", "one"), record("ann", "two"), record("bob", "one"));
        for it in [&one, &two, &other] {
            records.put(it).unwrap();
        }
        let again = Record { deployed_unix_millis: 5, ..one.clone() };
        records.put(&again).unwrap();
        assert!(records.remove(two.function.user, two.function.name).unwrap());
        assert!(!records.remove(two.function.user, two.function.name).unwrap());
        drop(records);
        let records = open(state.path()).unwrap();
        assert_eq!(records.all().unwrap().0, [again.clone(), other]);
        assert_eq!(records.of(one.function.user).unwrap().0, [again]);
    }

    #[test]
    fn the_schema_before_is_taken_over_once() {
        let state = tempfile::tempdir().unwrap();
        let (good, bad) = (record("ann", "good"), record("ann", "bad"));
        write_old(state.path(), &good);
        write_old(state.path(), &bad);
        fs::write(state.path().join("functions/ann/bad.json"), b"{").unwrap();
        let records = open(state.path()).unwrap();
        let found = records.all().unwrap().0;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].function, good.function);
        assert!(found[0].deployed_unix_millis > 0);
        let left = entries(&state.path().join("functions/ann")).unwrap();
        assert_eq!(left, [state.path().join("functions/ann/bad.json")], "the damaged one is kept");
        // As if the node had ended before it removed the files.
        drop(records);
        write_old(state.path(), &record("ann", "gone"));
        let records = open(state.path()).unwrap();
        assert_eq!(records.all().unwrap().0, found, "they count no more");
        assert!(!state.path().join("functions/ann/gone.json").exists());
    }

    #[test]
    fn a_record_of_schema_1_without_version_and_freshness_is_taken_over() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("functions/ann");
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            r#"{{"user":"ann","name":"old","package":"{}","package_bytes":9,"entry":"tool",
            "arguments":["tool"],"environment":[],"contract":"program","memory_mib":128,
            "timeout_millis":3000}}"#,
            Digest([7; 32])
        );
        fs::write(folder.join("old.json"), text).unwrap();
        let function = open(state.path()).unwrap().all().unwrap().0.remove(0).function;
        assert_eq!((function.version, function.freshness), (1, Freshness::Reuse));
        assert!(!state.path().join("functions").exists());
    }

    #[test]
    fn a_newer_schema_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let records = open(state.path()).unwrap();
        records.put(&record("ann", "one")).unwrap();
        let set = |version| {
            let database = Database::open(state.path().join(FILE)).unwrap();
            let change = database.begin_write().unwrap();
            change.open_table(SCHEMA_TABLE).unwrap().insert(SCHEMA_KEY, version).unwrap();
            change.commit().unwrap();
        };
        drop(records);
        set(SCHEMA + 1);
        let error = open(state.path()).unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { version: 3, .. }), "{error}");
        assert!(error.to_string().contains("newer pilotlight"), "{error}");
        set(SCHEMA);
        assert_eq!(open(state.path()).unwrap().all().unwrap().0.len(), 1, "nothing is lost");
    }

    #[test]
    fn a_file_that_was_altered_is_refused_with_advice() {
        let state = tempfile::tempdir().unwrap();
        open(state.path()).unwrap().put(&record("ann", "one")).unwrap();
        let path = state.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for bytes in [&b"no database"[..], &whole[..whole.len() / 2], &vec![0; whole.len()]] {
            fs::write(&path, bytes).unwrap();
            let error = open(state.path()).unwrap_err();
            assert!(error.to_string().contains("functions.redb"), "{error}");
            assert!(error.to_string().contains("deploy"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_record_reads_back(
            entry in "[a-z]{1,20}",
            arguments in proptest::collection::vec("[^\\x00]{0,20}", 0..5),
            environment in proptest::collection::vec(("[A-Z]{1,9}", "[^\\x00]{0,9}"), 0..5),
            deployed_unix_millis: u64,
            package_bytes: u64,
        ) {
            let Record { function, .. } = record("ann", "any");
            let function = Function { entry, arguments, environment, package_bytes, ..function };
            let written = Record { deployed_unix_millis, function };
            let read = decode(Path::new("x"), ("ann", "any"), &encode(&written)).unwrap();
            proptest::prop_assert_eq!(read, written.clone());
            decode(Path::new("x"), ("bob", "any"), &encode(&written)).unwrap_err();
        }
    }
}
