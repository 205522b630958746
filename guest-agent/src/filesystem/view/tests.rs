use std::collections::BTreeMap;
use std::string::String;
use std::vec;

use proptest::prelude::*;

use super::*;
use crate::file::Descriptors;
use crate::filesystem::image::{Archive, Builder, Data, Image, Kind, Node as ImageNode};
use crate::filesystem::tree::{self, tests::machine_ready};
use crate::memory::Account;
use crate::memory::transfer::{Sink, Source};
use crate::world::World;

const RDWR: u32 = flags::READ_WRITE;
const CREATE: u32 = flags::CREATE | flags::READ_WRITE;

fn file(bytes: &[u8]) -> ImageNode {
    let kind = Kind::File(Data::Own(bytes.into()));
    ImageNode { kind, permissions: 0o755, links: 1, modified_nanos: 0 }
}

/// A view over a root with `/low/{f,d/g}` and a package with `bootstrap`.
fn view() -> View {
    machine_ready();
    let world = World::new();
    world.seed([3; 32]);
    let mut builder = Builder::new();
    builder.put(b"low/f", file(b"lower f")).unwrap();
    builder.put(b"low/d/g", file(b"lower g")).unwrap();
    let root = builder.finish(Archive::Owned(Vec::new()), 1);
    let root = Rc::new(tree::with_skeleton(Some(root), 2).unwrap());
    let mut builder = Builder::new();
    builder.put(b"bootstrap", file(b"#!")).unwrap();
    let package: Rc<Image> = Rc::new(builder.finish(Archive::Owned(Vec::new()), 3));
    View::new(Tree::new(&world, &Account::new(1 << 20), &root, Some(&package), None))
}

fn with_caller<R>(descriptors: &Descriptors, use_it: impl FnOnce(&Caller<'_>) -> R) -> R {
    use_it(&Caller {
        process: 7,
        parent: 1,
        task: 9,
        executable: b"/var/task/bootstrap",
        command_line: b"bootstrap\0-x\0",
        name: b"bootstrap",
        memory: &|text| text.extend_from_slice(b"maps"),
        descriptors,
    })
}

fn open(view: &View, path: &str, flags: u32) -> Result<Rc<OpenFile>, Errno> {
    with_caller(&Descriptors::new(), |caller| {
        view.open(caller, None, path.as_bytes(), flags, 0o666)
    })
}

fn stat(view: &View, path: &str) -> Result<Stat, Errno> {
    with_caller(&Descriptors::new(), |caller| view.stat(caller, None, path.as_bytes(), true))
}

fn read(file: &OpenFile) -> Vec<u8> {
    let mut bytes = vec![0; 10_000];
    let count = file.read(&mut Sink::kernel(&mut bytes)).unwrap();
    bytes.truncate(count);
    bytes
}

fn write(file: &OpenFile, bytes: &[u8]) -> Result<usize, Errno> {
    file.write(&mut Source::kernel(bytes))
}

fn text(view: &View, path: &str) -> Result<String, Errno> {
    open(view, path, 0).map(|file| String::from_utf8(read(&file)).unwrap())
}

fn names(file: &OpenFile) -> Vec<String> {
    let mut names = Vec::new();
    file.read_directory(&mut |entry| {
        names.push(String::from_utf8(entry.name.to_vec()).unwrap());
        true
    })
    .unwrap();
    names.sort();
    names
}

#[test]
fn a_file_is_made_written_and_read() {
    let view = view();
    let file = open(&view, "/tmp/a", CREATE).unwrap();
    assert_eq!(write(&file, b"hello"), Ok(5));
    assert_eq!(file.seek(1, flags::SEEK_SET), Ok(1));
    assert_eq!(read(&file), b"ello");
    assert_eq!((file.seek(-2, flags::SEEK_END), file.seek(-9, 1)), (Ok(3), Err(Errno::INVAL)));
    let appender = open(&view, "/tmp/a", flags::WRITE_ONLY | flags::APPEND).unwrap();
    write(&appender, b"!").unwrap();
    assert_eq!(text(&view, "/tmp/a").unwrap(), "hello!");
    assert_eq!(appender.read(&mut Sink::kernel(&mut [0; 4])), Err(Errno::BADF));
    assert_eq!(stat(&view, "/tmp/a").unwrap().mode, 0o10_0644);
    let exclusive = CREATE | flags::EXCLUSIVE;
    assert_eq!(open(&view, "/tmp/a", exclusive).err(), Some(Errno::EXIST));
    let cut = open(&view, "/tmp/a", flags::WRITE_ONLY | flags::TRUNCATE).unwrap();
    assert_eq!(cut.stat().unwrap().bytes, 0);
}

#[test]
fn the_package_is_read_only_and_the_root_is_written_over() {
    let view = view();
    assert_eq!(open(&view, "/var/task/bootstrap", RDWR).err(), Some(Errno::ROFS));
    assert_eq!(open(&view, "/var/task/new", CREATE).err(), Some(Errno::ROFS));
    assert_eq!(view.unlink(None, b"/var/task/bootstrap"), Err(Errno::ROFS));
    assert_eq!(view.remove_directory(None, b"/var/task"), Err(Errno::BUSY));
    let lower = open(&view, "/low/f", RDWR).unwrap();
    write(&lower, b"upper").unwrap();
    assert_eq!(text(&view, "/low/f").unwrap(), "upper f");
    view.unlink(None, b"/low/d/g").unwrap();
    assert_eq!(stat(&view, "/low/d/g").err(), Some(Errno::NOENT));
    view.remove_directory(None, b"/low/d").unwrap();
    assert_eq!(names(&open(&view, "/low", 0).unwrap()), [".", "..", "f"]);
    view.make_directory(None, b"/low/d/", 0o777).unwrap();
    assert_eq!(names(&open(&view, "/low/d", 0).unwrap()), [".", ".."]);
    assert_eq!(text(&view, "/low/f").unwrap(), "upper f");
}

#[test]
fn links_are_followed_a_bounded_number_of_times() {
    let view = view();
    view.symlink(b"b", None, b"/tmp/a").unwrap();
    view.symlink(b"/tmp/a", None, b"/tmp/b").unwrap();
    assert_eq!(open(&view, "/tmp/a", 0).err(), Some(Errno::LOOP));
    view.symlink(b"../tmp/c/", None, b"/tmp/up").unwrap();
    view.make_directory(None, b"/tmp/c", 0o755).unwrap();
    open(&view, "/tmp/up/file", CREATE).unwrap();
    assert!(stat(&view, "/tmp/c/file").is_ok());
    assert_eq!(open(&view, "/tmp/up", flags::NO_FOLLOW).err(), Some(Errno::LOOP));
    // A dangling link makes its target.
    view.symlink(b"c/made", None, b"/tmp/dangling").unwrap();
    open(&view, "/tmp/dangling", CREATE).unwrap();
    assert!(stat(&view, "/tmp/c/made").is_ok());
    let mut target = [0; 3];
    let count = with_caller(&Descriptors::new(), |caller| {
        view.read_link(caller, None, b"/tmp/dangling", &mut target)
    });
    assert_eq!((count, &target), (Ok(3), b"c/m"));
}

#[test]
fn paths_are_checked_as_posix_says() {
    let view = view();
    open(&view, "/tmp/file", CREATE).unwrap();
    assert_eq!(stat(&view, "").err(), Some(Errno::NOENT));
    assert_eq!(stat(&view, "/tmp/file/").err(), Some(Errno::NOTDIR));
    assert_eq!(stat(&view, "/tmp/file/x").err(), Some(Errno::NOTDIR));
    assert_eq!(open(&view, "/tmp/new/", CREATE).err(), Some(Errno::ISDIR));
    assert_eq!(stat(&view, "/../../tmp/./file").unwrap().kind(), kind::REGULAR);
    assert_eq!(stat(&view, &"x".repeat(256)).err(), Some(Errno::NAMETOOLONG));
    assert_eq!(stat(&view, &"x/".repeat(2048)).err(), Some(Errno::NAMETOOLONG));
    assert_eq!(open(&view, "/tmp", RDWR).err(), Some(Errno::ISDIR));
    assert_eq!(open(&view, "/tmp/file", flags::DIRECTORY).err(), Some(Errno::NOTDIR));
    assert_eq!(view.unlink(None, b"/tmp"), Err(Errno::ISDIR));
    assert_eq!(view.remove_directory(None, b"/tmp/."), Err(Errno::INVAL));
    assert_eq!(view.remove_directory(None, b"/tmp/file"), Err(Errno::NOTDIR));
    assert_eq!(view.remove_directory(None, b"/dev"), Err(Errno::NOTEMPTY));
    assert_eq!(view.make_directory(None, b"/", 0), Err(Errno::EXIST));
}

#[test]
fn relative_paths_start_where_they_are_told() {
    let mut view = view();
    view.make_directory(None, b"/tmp/d", 0o755).unwrap();
    view.change_directory(None, b"/tmp/d").unwrap();
    open(&view, "here", CREATE).unwrap();
    let directory = open(&view, "/tmp", flags::DIRECTORY).unwrap();
    with_caller(&Descriptors::new(), |caller| {
        assert!(view.stat(caller, Some(&directory), b"d/here", true).is_ok());
        assert!(view.stat(caller, Some(&directory), b"/tmp/d/here", true).is_ok());
        let file = view.open(caller, None, b"here", 0, 0).unwrap();
        assert_eq!(file.path(), b"/tmp/d/here");
        assert_eq!(view.stat(caller, Some(&file), b"x", true).err(), Some(Errno::NOTDIR));
    });
    view.rename(None, b"/tmp/d", None, b"/tmp/e", 0).unwrap();
    assert_eq!(view.current_directory(), b"/tmp/e");
    assert!(view.change_directory(None, b"here").is_err());
    view.change_to(&directory).unwrap();
    assert_eq!(view.current_directory(), b"/tmp");
}

#[test]
fn a_removed_file_lives_while_it_is_open_and_a_removed_directory_takes_nothing() {
    let mut view = view();
    let file = open(&view, "/tmp/a", CREATE).unwrap();
    view.link(None, b"/tmp/a", None, b"/tmp/b").unwrap();
    assert_eq!(file.stat().unwrap().links, 2);
    view.unlink(None, b"/tmp/a").unwrap();
    view.unlink(None, b"/tmp/b").unwrap();
    write(&file, b"still").unwrap();
    assert_eq!((file.stat().unwrap().links, file.stat().unwrap().bytes), (0, 5));
    view.make_directory(None, b"/tmp/gone", 0o755).unwrap();
    view.change_directory(None, b"/tmp/gone").unwrap();
    view.remove_directory(None, b"/tmp/gone").unwrap();
    assert_eq!(open(&view, "x", CREATE).err(), Some(Errno::NOENT));
    let free = open(&view, "/tmp", flags::TEMPORARY | flags::DIRECTORY | RDWR).unwrap();
    assert_eq!((write(&free, b"x"), free.stat().unwrap().links), (Ok(1), 0));
}

#[test]
fn a_process_sees_itself_in_proc() {
    let view = view();
    assert_eq!(text(&view, "/proc/self/cmdline").unwrap(), "bootstrap\0-x\0");
    assert_eq!(text(&view, "/proc/7/maps").unwrap(), "maps");
    assert!(text(&view, "/proc/self/task/9/stat").unwrap().starts_with("7 (bootstrap) R 1 "));
    assert!(text(&view, "/proc/meminfo").unwrap().contains("MemTotal:            1024 kB"));
    assert_eq!(stat(&view, "/proc/1").err(), Some(Errno::NOENT));
    assert_eq!(stat(&view, "/proc/self/exe").unwrap().bytes, 2);
    let (first, second) = (
        text(&view, "/proc/sys/kernel/random/uuid").unwrap(),
        text(&view, "/proc/sys/kernel/random/uuid").unwrap(),
    );
    assert!(first != second && first.len() == 37);
    let boot = "/proc/sys/kernel/random/boot_id";
    assert_eq!(text(&view, boot), text(&view, boot));
    assert_eq!(open(&view, "/proc/new", CREATE).err(), Some(Errno::NOENT));
    assert_eq!(open(&view, "/proc/uptime", RDWR).err(), Some(Errno::ACCES));
    assert_eq!(stat(&view, "/proc/../tmp").unwrap().kind(), kind::DIRECTORY);
    assert!(names(&open(&view, "/proc", 0).unwrap()).contains(&String::from("7")));
}

#[test]
fn open_files_are_reached_through_their_descriptors() {
    let view = view();
    let mut descriptors = Descriptors::new();
    let (reader, writer) = crate::file::pipe(view.tree().world(), view.tree().account(), 0);
    descriptors.insert(reader, false, 0).unwrap();
    descriptors.insert(writer, false, 0).unwrap();
    descriptors.insert(open(&view, "/tmp/a", CREATE).unwrap(), false, 0).unwrap();
    with_caller(&descriptors, |caller| {
        let out = view.open(caller, None, b"/dev/stdout", flags::WRITE_ONLY, 0).unwrap();
        write(&out, b"through").unwrap();
        assert_eq!(read(&descriptors.get(0).unwrap()), b"through");
        let again = view.open(caller, None, b"/dev/fd/2", flags::WRITE_ONLY, 0).unwrap();
        write(&again, b"same file").unwrap();
        let mut target = [0; 64];
        let count = view.read_link(caller, None, b"/proc/self/fd/2", &mut target).unwrap();
        assert_eq!(&target[..count], b"/tmp/a");
        assert_eq!(view.open(caller, None, b"/dev/fd/9", 0, 0).err(), Some(Errno::NOENT));
        assert_eq!(view.open(caller, None, b"/dev/tty", 0, 0).err(), Some(Errno::NXIO));
    });
    assert_eq!(text(&view, "/tmp/a").unwrap(), "same file");
    let random = open(&view, "/dev/urandom", 0).unwrap();
    assert_ne!(read(&random), read(&random));
}

#[test]
fn deep_directories_are_dropped_without_deep_recursion() {
    let mut view = view();
    view.change_directory(None, b"/tmp").unwrap();
    let account = Rc::clone(view.tree().account());
    let before = account.used_bytes();
    for _ in 0..200 {
        view.make_directory(None, b"d", 0o755).unwrap();
        view.change_directory(None, b"d").unwrap();
    }
    assert!(account.used_bytes() > before);
    drop(view);
    assert_eq!(account.used_bytes(), 0);
}

#[test]
fn a_directory_is_listed_in_pieces() {
    let view = view();
    for name in ["a", "b", "c"] {
        open(&view, &std::format!("/tmp/{name}"), CREATE).unwrap();
    }
    let directory = open(&view, "/tmp", 0).unwrap();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let mut room = 1;
        let mut take = |entry: &crate::file::DirectoryEntry<'_>| {
            if room == 0 {
                return false;
            }
            room -= 1;
            seen.push(entry.name.to_vec());
            true
        };
        directory.read_directory(&mut take).unwrap();
    }
    assert_eq!(seen, [b".".to_vec(), b"..".to_vec(), b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    directory.seek(0, flags::SEEK_SET).unwrap();
    assert_eq!(names(&directory).len(), 5);
}

/// A tree by the book: full paths to contents, `None` for a directory.
#[derive(Clone, Debug)]
struct Model(BTreeMap<Vec<&'static str>, Option<Vec<u8>>>);

type Path = Vec<&'static str>;

impl Model {
    fn parent(&self, path: &[&'static str]) -> Result<(), Errno> {
        for depth in 1..path.len() {
            match self.0.get(&path[..depth]) {
                None => return Err(Errno::NOENT),
                Some(Some(_)) => return Err(Errno::NOTDIR),
                Some(None) => {}
            }
        }
        Ok(())
    }

    fn has_children(&self, path: &Path) -> bool {
        self.0.keys().any(|other| other.len() > path.len() && other.starts_with(path))
    }

    fn make_directory(&mut self, path: &Path) -> Result<(), Errno> {
        self.parent(path)?;
        if self.0.contains_key(path) {
            return Err(Errno::EXIST);
        }
        self.0.insert(path.clone(), None);
        Ok(())
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Errno> {
        self.parent(path)?;
        if self.0.get(path) == Some(&None) {
            return Err(Errno::ISDIR);
        }
        self.0.insert(path.clone(), Some(bytes.to_vec()));
        Ok(())
    }

    fn remove(&mut self, path: &Path, wants_directory: bool) -> Result<(), Errno> {
        self.parent(path)?;
        match (self.0.get(path).ok_or(Errno::NOENT)?, wants_directory) {
            (None, false) => return Err(Errno::ISDIR),
            (Some(_), true) => return Err(Errno::NOTDIR),
            (None, true) if self.has_children(path) => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.0.remove(path);
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        self.parent(from)?;
        self.parent(to)?;
        let is_directory = self.0.get(from).ok_or(Errno::NOENT)?.is_none();
        if from == to {
            return Ok(());
        }
        match self.0.get(to) {
            Some(Some(_)) if is_directory => return Err(Errno::NOTDIR),
            Some(None) if !is_directory => return Err(Errno::ISDIR),
            Some(None) if self.has_children(to) => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        if to.starts_with(from) {
            return Err(Errno::INVAL);
        }
        let moved: Vec<_> = self.0.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let content = self.0.remove(&path).unwrap();
            let path = to.iter().chain(&path[from.len()..]).copied().collect();
            self.0.insert(path, content);
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    MakeDirectory(Path),
    Write(Path, Vec<u8>),
    Unlink(Path),
    RemoveDirectory(Path),
    Rename(Path, Path),
}

fn path() -> impl Strategy<Value = Path> {
    prop::collection::vec(prop::sample::select(vec!["d", "f", "g"]), 1..4).prop_map(|mut names| {
        names.insert(0, "low");
        names
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        path().prop_map(Step::MakeDirectory),
        (path(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(path, bytes)| Step::Write(path, bytes)),
        path().prop_map(Step::Unlink),
        path().prop_map(Step::RemoveDirectory),
        (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
    ]
}

fn joined(path: &Path) -> String {
    std::format!("/{}", path.join("/"))
}

fn contents(view: &View) -> BTreeMap<Path, Option<Vec<u8>>> {
    let mut found = BTreeMap::from([(vec!["low"], None)]);
    let mut pending: Vec<Path> = vec![vec!["low"]];
    while let Some(path) = pending.pop() {
        for name in names(&open(view, &joined(&path), 0).unwrap()) {
            let Some(name) = ["d", "f", "g"].into_iter().find(|known| *known == name) else {
                continue;
            };
            let mut child = path.clone();
            child.push(name);
            if stat(view, &joined(&child)).unwrap().is_directory() {
                found.insert(child.clone(), None);
                pending.push(child);
            } else {
                let bytes = read(&open(view, &joined(&child), 0).unwrap());
                found.insert(child, Some(bytes));
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn it_behaves_like_a_map_of_paths(steps in prop::collection::vec(step(), 1..60)) {
        let view = view();
        let mut model = Model(BTreeMap::from([
            (vec!["low"], None),
            (vec!["low", "f"], Some(b"lower f".to_vec())),
            (vec!["low", "d"], None),
            (vec!["low", "d", "g"], Some(b"lower g".to_vec())),
        ]));
        for step in steps {
            let (expected, got) = match &step {
                Step::MakeDirectory(path) => (
                    model.make_directory(path),
                    view.make_directory(None, joined(path).as_bytes(), 0o755),
                ),
                Step::Write(path, bytes) => (
                    model.write(path, bytes),
                    open(&view, &joined(path), CREATE | flags::TRUNCATE)
                        .and_then(|file| write(&file, bytes))
                        .map(|_| ()),
                ),
                Step::Unlink(path) => {
                    (model.remove(path, false), view.unlink(None, joined(path).as_bytes()))
                }
                Step::RemoveDirectory(path) => {
                    (model.remove(path, true), view.remove_directory(None, joined(path).as_bytes()))
                }
                Step::Rename(from, to) => (
                    model.rename(from, to),
                    view.rename(None, joined(from).as_bytes(), None, joined(to).as_bytes(), 0),
                ),
            };
            prop_assert_eq!(got, expected, "{:?}", step);
        }
        prop_assert_eq!(contents(&view), model.0);
        let account = Rc::clone(view.tree().account());
        drop(view);
        prop_assert_eq!(account.used_bytes(), 0);
    }
}
