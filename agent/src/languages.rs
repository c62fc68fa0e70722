//! Which languages this machine can build and run, and so which tags the worker has.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::order::Language;

/// The languages that are here, with the tags of the settings; "-tag" takes one away.
pub(crate) fn tags(settings: &[String]) -> Vec<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    combine(Language::ALL.into_iter().filter(|language| is_here(*language, &folders)), settings)
}

fn combine(found: impl Iterator<Item = Language>, settings: &[String]) -> Vec<String> {
    let settings = settings.iter().map(|tag| tag.trim()).filter(|tag| !tag.is_empty());
    let (unwanted, wanted): (Vec<&str>, Vec<&str>) = settings.partition(|tag| tag.starts_with('-'));
    let is_unwanted =
        |tag: &str| unwanted.iter().any(|unwanted| unwanted[1..].eq_ignore_ascii_case(tag));
    let tags: BTreeSet<String> = found
        .map(|language| -> &str { language.name() })
        .chain(wanted)
        .filter(|tag| !is_unwanted(tag))
        .map(str::to_owned)
        .collect();
    tags.into_iter().collect()
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
        assert_eq!(combine(found.into_iter(), &settings), ["golang", "gpu"]);
    }
}
