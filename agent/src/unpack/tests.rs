//! Archives that mean well, and many that do not.

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

use super::*;

struct Made(Builder<GzEncoder<Vec<u8>>>);

impl Made {
    fn new() -> Self {
        Self(Builder::new(GzEncoder::new(vec![], Compression::fast())))
    }

    /// The name as it is, which the library would not write.
    fn entry(mut self, kind: EntryType, name: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o777);
        header.set_size(data.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        self.entry(EntryType::Regular, name, "", text.as_bytes())
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap().finish().unwrap()
    }

    fn unpack(self) -> (Place, Result<(), UnpackError>) {
        unpacked(&self.bytes(), MOST)
    }
}

/// A folder to unpack into, three deep, so that what leaves it is seen.
struct Place {
    outer: tempfile::TempDir,
    folder: PathBuf,
}

impl Place {
    /// Nothing is outside, nor reached from inside.
    fn is_clean(&self) {
        let secret = self.outer.path().join("a/secret");
        assert_eq!(fs::read_to_string(secret).unwrap(), "secret");
        let names = |path: PathBuf| fs::read_dir(path).unwrap().count();
        assert_eq!((names(self.outer.path().into()), names(self.outer.path().join("a"))), (2, 2));
        assert_eq!(names(self.outer.path().join("a/b")), 1);
        inside(&self.folder, &self.folder.canonicalize().unwrap());
    }
}

fn inside(folder: &Path, root: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert!(meta.is_dir() || meta.is_file() || meta.is_symlink(), "{}", path.display());
        if let Ok(real) = path.canonicalize() {
            assert!(real.starts_with(root), "{} leads to {}", path.display(), real.display());
        }
        if meta.is_dir() {
            inside(&path, root);
        }
    }
}

fn unpacked(archive: &[u8], most: Most) -> (Place, Result<(), UnpackError>) {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("a/b/c");
    fs::create_dir_all(&folder).unwrap();
    fs::write(outer.path().join("a/secret"), "secret").unwrap();
    fs::write(outer.path().join("archive"), archive).unwrap();
    let done = unpack(&outer.path().join("archive"), &folder, most);
    (Place { outer, folder }, done)
}

#[test]
fn files_folders_and_links_within_are_unpacked() {
    let archive = Made::new()
        .entry(EntryType::Directory, "./", "", b"")
        .file("./index.js", "main")
        .entry(EntryType::Directory, "lib/", "", b"")
        .file("lib/deep/er/it.js", "it")
        .link("lib/deep/up", "../../index.js")
        .link("all", "lib/deep")
        .file("index.js", "again");
    let (place, done) = archive.unpack();
    done.unwrap();
    place.is_clean();
    let read = |name: &str| fs::read_to_string(place.folder.join(name)).unwrap();
    assert_eq!(
        ["index.js", "lib/deep/er/it.js", "lib/deep/up", "all/er/it.js"].map(read),
        ["again", "it", "again", "it"]
    );
    let mode = fs::metadata(place.folder.join("index.js")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn a_name_of_any_length_is_a_name() {
    let name = format!("{}/it.js", ["a-long-name"; 30].join("/"));
    let mut made = Made::new();
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(2);
    made.0.append_data(&mut header, &name, &b"it"[..]).unwrap();
    let (place, done) = made.unpack();
    done.unwrap();
    assert_eq!(fs::read_to_string(place.folder.join(name)).unwrap(), "it");
}

#[test]
fn no_archive_gets_out() {
    let ups = ["..", "../..", "../../..", "x/..", "x/../..", "./..", "../secret", "../../secret"];
    let roots = ["/", "/tmp", "/etc/passwd", "//etc", "/../.."];
    let kinds = [
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Continuous,
    ];
    let mut cases = 0;
    let mut refused = |made: Made| {
        let (place, done) = made.unpack();
        place.is_clean();
        cases += 1;
        done.unwrap_err()
    };
    // Names.
    for kind in kinds {
        for name in ups.iter().chain(&roots) {
            for name in [(*name).to_owned(), format!("{name}/evil")] {
                refused(Made::new().entry(kind, &name, "it", b""));
            }
        }
    }
    // Links, and what is written through them.
    for target in ups.iter().chain(&roots) {
        for name in ["l", "d/l", "d/e/f/l"] {
            let reaches = format!("{}{target}", "../".repeat(name.matches('/').count()));
            for target in [reaches.clone(), format!("{reaches}/evil"), format!("x/{reaches}")] {
                // `x/..` may be inside; what is behind a link is refused nevertheless.
                let made = Made::new().link(name, &target).file(&format!("{name}/evil"), "evil");
                refused(made);
            }
        }
    }
    // Links that climb by way of others.
    refused(Made::new().link("a/b/c/up", "../../..").link("out", "a/b/c/up/../secret"));
    refused(Made::new().link("a/b/c", "../..").link("a/b/c/l", "../../../x"));
    refused(Made::new().link("d", ".").file("d/evil", "evil"));
    refused(Made::new().file("d", "file").file("d/evil", "evil"));
    refused(Made::new().link("l", ""));
    // Hard links and what is no file.
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::Link] {
        for link in ["", "it", "../secret", "/etc/passwd"] {
            let error = refused(Made::new().file("it", "it").entry(kind, "evil", link, b""));
            assert!(error.to_string().contains("`evil`"), "{error}");
        }
    }
    assert!(cases >= 200, "{cases} cases");
}

#[test]
fn no_archive_takes_more_than_it_may() {
    let most = Most { bytes: 1 << 20, entries: 100 };
    let large = Made::new().entry(EntryType::Regular, "zeros", "", &vec![0; 1 << 20]).bytes();
    let (_, done) = unpacked(&large, most);
    assert!(matches!(done, Err(UnpackError::TooMuch(_))), "{done:?}");
    let made = |count: usize| {
        (0..count).fold(Made::new(), |made, n| made.file(&format!("{n}"), "")).bytes()
    };
    unpacked(&made(100), most).1.unwrap();
    let (_, done) = unpacked(&made(101), most);
    assert!(matches!(done, Err(UnpackError::TooMuch(_))), "{done:?}");
    // A header that promises more than there is, and a name that never ends.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let mut encoder = GzEncoder::new(vec![], Compression::best());
    encoder.write_all(header.as_bytes()).unwrap();
    encoder.write_all(&vec![b'a'; 4 << 20]).unwrap();
    let (_, done) = unpacked(&encoder.finish().unwrap(), most);
    assert!(matches!(done, Err(UnpackError::TooMuch(_))), "{done:?}");
}

#[test]
fn what_is_no_archive_or_cut_off_is_refused() {
    let whole = Made::new().file("it", &"it".repeat(10_000)).bytes();
    for bytes in [&b""[..], b"nonsense", &whole[..whole.len() / 2], &[0x1f, 0x8b, 8]] {
        let (place, done) = unpacked(bytes, MOST);
        assert!(matches!(done, Err(UnpackError::Damaged(_))), "{done:?}");
        place.is_clean();
    }
}
