//! House rules that the compiler cannot check.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A domain is pure because it cannot name anything impure.
#[test]
fn domains_import_only_pure_crates() {
    const PURE: [&str; 21] = [
        "std::cmp",
        "std::collections",
        "std::convert::Infallible",
        "std::fmt",
        "std::iter",
        "std::mem",
        "std::net::IpAddr",
        "std::ops",
        "std::str",
        "std::sync::Arc",
        "std::time::Duration",
        // The calendar; no domain asks it for the present time.
        "chrono::",
        "chrono_tz::",
        "eventlog::Fold",
        "ids::",
        "thiserror",
        "crate::domain",
        "super::",
        "self::",
        "Command::",
        "Event::",
    ];
    for (path, text) in sources().filter(|(path, _)| is_domain(path)) {
        let own = modules(&text);
        for import in imports(&text) {
            let first = import.split("::").next().unwrap_or_default();
            let pure = own.contains(&first) || PURE.iter().any(|pure| import.starts_with(pure));
            assert!(pure, "{} imports {import}", path.display());
        }
    }
}

fn is_domain(path: &Path) -> bool {
    let has = |name: &str| path.components().any(|part| part.as_os_str() == name);
    (has("domain.rs") || has("domain")) && !has("tests.rs") && !has("tests")
}

/// The modules that a file declares.
fn modules(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| {
            line.trim_start_matches("pub ").trim_start_matches("(crate) ").strip_prefix("mod ")
        })
        .filter_map(|rest| rest.strip_suffix(';'))
        .collect()
}

/// The full paths of a file's imports, `use a::{b, c::d}` taken apart.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().take_while(|line| !line.contains("#[cfg(test)]"));
    while let Some(line) = lines.next() {
        let Some(start) = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("use ") else {
            continue;
        };
        let mut tree = start.to_owned();
        while !tree.ends_with(';') {
            tree.push_str(lines.next().expect("an import ends"));
        }
        expand("", tree.trim_end_matches(';').trim(), &mut found);
    }
    found
}

fn expand(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        found.push(format!("{prefix}{}", tree.trim()));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let inner = rest.trim().strip_suffix('}').unwrap_or(rest);
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
    let text =
        "//! x\nuse std::{\n    collections::{BTreeMap, BTreeSet},\n    fs,\n};\nuse ids::RunId;\n";
    let expected =
        ["std::collections::BTreeMap", "std::collections::BTreeSet", "std::fs", "ids::RunId"];
    assert_eq!(imports(text), expected);
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
    const LOWER: [&str; 9] = [
        "ids",
        "proto",
        "eventlog",
        "schema",
        "identity",
        "transport",
        "authz",
        "telemetry",
        "objects",
    ];
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
        let generated = text.starts_with("// This file is @generated");
        assert!(
            generated || text.starts_with("//!"),
            "{} does not begin with a //! line",
            path.display()
        );
    }
}

/// So that a simulated disk can stand under all of it.
#[test]
fn the_log_touches_files_in_one_place_only() {
    let is_of_the_log = |path: &Path| {
        let path = path.to_string_lossy();
        let is_engine = path.contains("eventlog/src/embedded") && !path.contains("tests");
        is_engine || path.ends_with("eventlog/src/snapshot.rs")
    };
    let mut seen = 0;
    for (path, text) in sources().filter(|(path, _)| is_of_the_log(path)) {
        seen += 1;
        // What a snapshot asks of the program's own file is no matter of the log's disk.
        let text = text.replace("env::current_exe().and_then(fs::metadata)", "");
        for word in [
            "fs::File",
            "fs::read",
            "fs::write",
            "fs::rename",
            "fs::remove",
            "fs::create",
            "fs::metadata",
            "FileExt",
        ] {
            assert!(
                !text.contains(word),
                "{} uses {word}: use eventlog/src/disk.rs",
                path.display()
            );
        }
    }
    assert!(seen > 8, "the log's files were not found");
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
