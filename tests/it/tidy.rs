//! House rules that the compiler cannot check.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A domain is pure because it cannot name anything impure.
#[test]
fn domains_import_only_pure_crates() {
    const PURE: [&str; 10] = [
        "std::collections",
        "std::fmt",
        "std::sync::Arc",
        "std::time",
        "std::iter",
        "eventlog::Fold",
        "ids::",
        "thiserror",
        "super::",
        "crate::domain",
    ];
    for (path, text) in sources().filter(|(path, _)| is_domain(path)) {
        for import in imports(&text) {
            let pure = PURE.iter().any(|pure| import.starts_with(pure))
                || import.starts_with("self::")
                || import.starts_with("std::cmp")
                || import.starts_with("std::ops")
                || import.starts_with("std::mem");
            assert!(pure, "{} imports {import}", path.display());
        }
    }
}

fn is_domain(path: &Path) -> bool {
    let tests = path.components().any(|part| part.as_os_str() == "tests.rs");
    let domain = |part: &std::ffi::OsStr| part == "domain.rs" || part == "domain";
    !tests && path.components().any(|part| domain(part.as_os_str()))
}

/// The full paths of a file's imports, `use a::{b, c::d}` taken apart.
fn imports(text: &str) -> Vec<String> {
    let code: String = text.lines().take_while(|line| !line.contains("#[cfg(test)]")).collect();
    let mut found = Vec::new();
    for part in code.split(';') {
        let Some(at) = part.rfind("use ").filter(|&at| {
            part[..at].trim_end_matches(' ').is_empty()
                || part[..at].ends_with("pub ")
                || part[..at].ends_with('}')
        }) else {
            continue;
        };
        expand("", part[at + 4..].trim(), &mut found);
    }
    found
}

fn expand(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        found.push(format!("{prefix}{}", tree.trim()));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut start) = (0_i32, 0);
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, inner[start..at].trim(), found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(&prefix, inner[start..].trim(), found);
    }
}

#[test]
fn imports_are_taken_apart() {
    let text = "//! x\nuse std::{collections::{BTreeMap, BTreeSet}, fs};\nuse ids::RunId;\n";
    let expected =
        ["std::collections::BTreeMap", "std::collections::BTreeSet", "std::fs", "ids::RunId"];
    let text = text.lines().skip(1).collect::<String>();
    assert_eq!(imports(&text), expected);
}

/// Services share schemas and facts, never code.
#[test]
fn no_service_depends_on_a_service() {
    for service in ["registry", "scheduler", "artifacts", "logs", "pipelines", "access"] {
        let path = root().join(format!("svc-{service}/Cargo.toml"));
        let manifest = fs::read_to_string(&path).expect("read a manifest");
        for line in manifest.lines() {
            assert!(!line.starts_with("svc-"), "{} has {line}", path.display());
        }
    }
}

/// Libraries that everything rests on know nothing of what rests on them.
#[test]
fn arrows_point_down() {
    const LOWER: [&str; 6] = ["ids", "proto", "eventlog", "identity", "transport", "telemetry"];
    for name in LOWER {
        let path = root().join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(&path).expect("read a manifest");
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for line in dependencies.lines() {
            let upper = ["svc-", "gateway", "agent", "gaia"].iter().any(|up| line.starts_with(up));
            assert!(!upper, "{} has {line}", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} does not begin with a //! line", path.display());
    }
}

#[test]
fn files_stay_short_enough_to_read() {
    for (path, text) in sources() {
        let is_test = path.components().any(|part| {
            matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "benches" | "it"))
        });
        let lines = text.lines().count();
        assert!(is_test || lines <= 500, "{} has {lines} lines: split it by noun", path.display());
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every Rust file of the workspace, with its text.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    let mut folders = vec![root()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("list a folder").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 50, "the sources were not found");
    files.into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("read a source file");
        (path, text)
    })
}
