//! Puts a binary together from chunks: those that are here already, in what a broken download left or in
//! other binaries, and those that the server sends. Each is compared before it is written.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use chunks::{Chunk, Cutter, Manifest, frames::Frames, manifest::LARGEST_MANIFEST};
use http::Method;
use http_body_util::{BodyExt as _, Limited};
use ids::Digest;
use tokio::{task::spawn_blocking, time::timeout};
use tonic::body::Body;
use transport::Channel;

use crate::{
    cache::{Fetch, Wanted},
    http::{PATIENCE, leased, open, read},
    stop::Trouble,
};

/// Ranges of chunks in one request, so that its line stays short.
const RANGES: usize = 200;
const PIECE: usize = 1 << 20;

/// The chunks of a binary that is here.
pub(crate) fn cut(file: &fs::File) -> io::Result<Manifest> {
    let (mut cutter, mut chunks) = (Cutter::default(), vec![]);
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    loop {
        match file.read_at(&mut piece, at)? {
            0 => break,
            count => {
                chunks.extend(cutter.push(&piece[..count]).iter().map(|chunk| Chunk::of(chunk)));
                at += count as u64;
            }
        }
    }
    chunks.extend(cutter.finish().iter().map(|chunk| Chunk::of(chunk)));
    Ok(chunks.into_iter().collect())
}

/// `None`: this server has no such list, or one that cannot be; the binary is to be read whole. An error
/// may pass.
pub(crate) async fn manifest(
    channel: &Channel,
    wanted: Wanted<'_>,
    most: u64,
) -> Result<Option<Manifest>, String> {
    let path = format!("/artifacts/sha256/{}/manifest", wanted.digest);
    let request = leased(Method::GET, &path, wanted.lease).body(Body::empty());
    let request = request.expect("ids make a valid request");
    let response = open(channel, request).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        let answer = read(response).await.map_err(|error| error.to_string())?;
        return if answer.is_passing_for_worker() { Err(answer.text()) } else { Ok(None) };
    }
    let body = Limited::new(response.into_body(), LARGEST_MANIFEST).collect();
    match timeout(PATIENCE, body).await {
        Ok(Ok(body)) => {
            let manifest = Manifest::decode(&body.to_bytes()).ok();
            Ok(manifest.filter(|manifest| {
                manifest.size() <= most && (wanted.size == 0 || manifest.size() == wanted.size)
            }))
        }
        Ok(Err(error)) => Err(format!("the list of chunks broke off: {error}")),
        Err(_) => Err("the list of chunks stalled".to_owned()),
    }
}

/// A file that grows chunk by chunk, in any order.
struct Assembly {
    file: fs::File,
    /// Where the chunks go that are missing, in the order of the binary.
    missing: Vec<(u32, Chunk)>,
    places: HashMap<Digest, Vec<u64>>,
}

impl Assembly {
    /// With everything that is here already.
    fn begin(part: &Path, manifest: &Manifest, others: &[(PathBuf, Manifest)]) -> io::Result<Self> {
        let file =
            fs::File::options().create(true).truncate(false).read(true).write(true).open(part)?;
        let had = file.metadata()?.len();
        file.set_len(manifest.size())?;
        let here = Here::of(others);
        let (mut missing, mut places) = (vec![], HashMap::<_, Vec<u64>>::new());
        for (number, (at, chunk)) in (0..).zip(manifest.placed()) {
            let is_there = at < had && is_at(&file, at, chunk);
            if is_there {
                continue;
            }
            if let Some(bytes) = here.find(chunk) {
                file.write_all_at(&bytes, at)?;
                continue;
            }
            let places = places.entry(chunk.digest).or_default();
            if places.is_empty() {
                missing.push((number, chunk));
            }
            places.push(at);
        }
        Ok(Self { file, missing, places })
    }

    /// `false`: it is not that chunk.
    fn write(&self, chunk: Chunk, stored: &Bytes) -> io::Result<bool> {
        let Ok(bytes) = chunk.unpack(stored) else { return Ok(false) };
        for at in &self.places[&chunk.digest] {
            self.file.write_all_at(&bytes, *at)?;
        }
        Ok(true)
    }
}

fn is_at(file: &fs::File, at: u64, chunk: Chunk) -> bool {
    read_at(file, at, chunk).is_some()
}

fn read_at(file: &fs::File, at: u64, chunk: Chunk) -> Option<Vec<u8>> {
    let mut bytes = vec![0; chunk.length as usize];
    file.read_exact_at(&mut bytes, at).ok()?;
    (Digest::of(&bytes) == chunk.digest).then_some(bytes)
}

/// Chunks of other binaries.
struct Here {
    files: Vec<Option<fs::File>>,
    places: HashMap<Digest, (usize, u64)>,
}

impl Here {
    fn of(others: &[(PathBuf, Manifest)]) -> Self {
        let files = others.iter().map(|(path, _)| fs::File::open(path).ok()).collect();
        let places = others.iter().enumerate().flat_map(|(file, (_, manifest))| {
            manifest.placed().map(move |(at, chunk)| (chunk.digest, (file, at)))
        });
        Self { files, places: places.collect() }
    }

    fn find(&self, chunk: Chunk) -> Option<Vec<u8>> {
        let (file, at) = *self.places.get(&chunk.digest)?;
        read_at(self.files[file].as_ref()?, at, chunk)
    }
}

/// Asks for the chunks that are missing.
pub(crate) async fn fetch(
    channel: &Channel,
    wanted: Wanted<'_>,
    manifest: &Manifest,
    part: &Path,
    others: Vec<(PathBuf, Manifest)>,
) -> Result<Fetch, Trouble> {
    let trouble = |error: io::Error| {
        if error.kind() == io::ErrorKind::StorageFull {
            // Nobody goes on with it here, and others need the room.
            fs::remove_file(part).ok();
        }
        Trouble::io("writing the binary", error)
    };
    let (path, list) = (part.to_owned(), manifest.clone());
    let begun = blocking(move || Assembly::begin(&path, &list, &others)).await.map_err(trouble)?;
    let assembly = Arc::new(begun);
    tracing::debug!(
        digest = %wanted.digest, chunks = manifest.chunks().len(), missing = assembly.missing.len(),
        "downloading the chunks that are not here"
    );
    let mut came = 0;
    let mut rest = &assembly.missing[..];
    while !rest.is_empty() {
        let (names, some) = first_ranges(rest);
        rest = &rest[some.len()..];
        let end = receive(channel, wanted, &names, some, &assembly, &mut came).await;
        match end.map_err(trouble)? {
            Fetch::Done => {}
            Fetch::Failed(why) if came > 0 => return Ok(Fetch::Advanced(why)),
            end => return Ok(end),
        }
    }
    Ok(Fetch::Done)
}

/// `0-5,9`, for the first of these chunks; and those.
fn first_ranges(missing: &[(u32, Chunk)]) -> (String, &[(u32, Chunk)]) {
    let mut ranges: Vec<(u32, u32)> = vec![];
    let mut count = 0;
    for (number, _) in missing {
        let had = ranges.len();
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ if had == RANGES => break,
            _ => ranges.push((*number, *number)),
        }
        count += 1;
    }
    let names: Vec<_> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    (names.join(","), &missing[..count])
}

/// Exactly these chunks, in this order.
async fn receive(
    channel: &Channel,
    wanted: Wanted<'_>,
    names: &str,
    expected: &[(u32, Chunk)],
    assembly: &Arc<Assembly>,
    came: &mut u64,
) -> io::Result<Fetch> {
    let path = format!("/artifacts/sha256/{}/chunks?of={names}", wanted.digest);
    let request = leased(Method::GET, &path, wanted.lease).body(Body::empty());
    let request = request.expect("ids and numbers make a valid request");
    let response = match open(channel, request).await {
        Ok(response) => response,
        Err(error) => return Ok(Fetch::Failed(error.to_string())),
    };
    if !response.status().is_success() {
        let why = match read(response).await {
            Ok(answer) if answer.is_passing_for_worker() => {
                return Ok(Fetch::Failed(answer.text()));
            }
            Ok(answer) => answer.text(),
            Err(error) => return Ok(Fetch::Failed(error.to_string())),
        };
        return Ok(Fetch::Wrong(format!("the server refused to send chunks: {why}")));
    }
    let (mut body, mut frames) = (response.into_body(), Frames::default());
    let mut expected = expected.iter();
    loop {
        match frames.next_chunk() {
            Err(error) => return Ok(Fetch::Wrong(error.to_string())),
            Ok(Some((digest, stored))) => {
                let Some((_, chunk)) = expected.next().filter(|(_, it)| it.digest == digest) else {
                    return Ok(Fetch::Wrong(format!(
                        "chunk {digest} came, which was not asked for"
                    )));
                };
                let (chunk, assembly) = (*chunk, Arc::clone(assembly));
                if !blocking(move || assembly.write(chunk, &stored)).await? {
                    return Ok(Fetch::Wrong(format!("what came as chunk {digest} is not that")));
                }
                *came += 1;
                continue;
            }
            Ok(None) => {}
        }
        match timeout(PATIENCE, body.frame()).await {
            Ok(None) if expected.len() == 0 && frames.finish().is_ok() => return Ok(Fetch::Done),
            Ok(None) => return Ok(Fetch::Failed("the transfer ended too early".into())),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    frames.push(&data);
                }
            }
            Ok(Some(Err(error))) => {
                return Ok(Fetch::Failed(format!("the transfer broke off: {error}")));
            }
            Err(_) => return Ok(Fetch::Failed("the transfer stalled".to_owned())),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.expect("work on files neither panics nor is aborted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_asked_for_in_ranges_and_not_too_many() {
        let chunks = |numbers: &[u32]| -> Vec<(u32, Chunk)> {
            numbers.iter().map(|number| (*number, Chunk::of(b"x"))).collect()
        };
        assert_eq!(first_ranges(&chunks(&[0, 1, 2, 5, 7, 8])).0, "0-2,5-5,7-8");
        let every_second: Vec<u32> = (0..1000).map(|number| number * 2).collect();
        let every_second = chunks(&every_second);
        let (_, first) = first_ranges(&every_second);
        assert_eq!(first.len(), RANGES);
    }
}
