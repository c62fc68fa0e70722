//! Which languages this machine can build and run, and so which tags the worker has.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::order::Language;

/// What the worker offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags {
    pub(crate) all: Vec<String>,
    /// Those that the agent found by itself.
    pub(crate) detected: Vec<String>,
}

/// The languages that are here, with the tags of the settings; "-tag" takes one away.
pub(crate) fn tags(settings: &[String]) -> Tags {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    combine(Language::ALL.into_iter().filter(|language| is_here(*language, &folders)), settings)
}

fn combine(found: impl Iterator<Item = Language>, settings: &[String]) -> Tags {
    let settings = settings.iter().map(|tag| tag.trim()).filter(|tag| !tag.is_empty());
    let (unwanted, wanted): (Vec<&str>, Vec<&str>) = settings.partition(|tag| tag.starts_with('-'));
    let is_in = |tags: &[&str], tag: &str| tags.iter().any(|it| it.eq_ignore_ascii_case(tag));
    let unwanted: Vec<&str> = unwanted.iter().map(|tag| &tag[1..]).collect();
    let detected: BTreeSet<&str> = found
        .map(Language::name)
        .filter(|tag| !is_in(&unwanted, tag) && !is_in(&wanted, tag))
        .collect();
    let configured = wanted.iter().copied().filter(|tag| !is_in(&unwanted, tag));
    let all: BTreeSet<&str> = configured.chain(detected.iter().copied()).collect();
    let owned = |tags: BTreeSet<&str>| tags.into_iter().map(str::to_owned).collect();
    Tags { all: owned(all), detected: owned(detected) }
}

fn is_here(language: Language, folders: &[PathBuf]) -> bool {
    let programs: &[&str] = match language {
        Language::Cpp => &["make"],
        Language::Golang => &["go"],
        Language::Java => &["mvn"],
        Language::Nodejs => &["node", "npm"],
        Language::Python => &["python3"],
        Language::Ruby => &["gem"],
        Language::Rust => &["cargo"],
    };
    programs.iter().all(|program| folders.iter().any(|dir| is_program(&dir.join(program))))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_needs_all_of_its_programs() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().to_path_buf()];
        let install = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        install("node", 0o755);
        install("make", 0o644);
        assert!(!is_here(Language::Nodejs, &folders));
        assert!(!is_here(Language::Cpp, &folders));
        install("npm", 0o755);
        assert!(is_here(Language::Nodejs, &folders));
    }

    #[test]
    fn a_negative_tag_takes_one_away() {
        let settings = ["gpu", "-Python", " ", "-mine", "mine"].map(str::to_owned);
        let found = [Language::Python, Language::Golang];
        assert_eq!(combine(found.into_iter(), &settings).all, ["golang", "gpu"]);
    }

    #[test]
    fn what_was_found_is_told_apart_from_what_was_set() {
        let settings = ["gpu", "Cpp"].map(str::to_owned);
        let tags = combine([Language::Golang, Language::Cpp].into_iter(), &settings);
        assert_eq!(tags.all, ["Cpp", "golang", "gpu"]);
        assert_eq!(tags.detected, ["golang"]);
    }
}
