//! Binaries of pipelines, by their digest.
//!
//! A file is under its name only when its digest was checked, and is checked again before each use
//! (unless it provably did not change since). Parallel runs share one download; a broken one goes on
//! where it stopped, also after the agent was killed. A server that sends something else, or more than it
//! should, is not followed to the end.
//!
//! Beside a binary is the list of its chunks, `<digest>.chunks`: what another binary has in common with it is
//! taken from here. It only says where to look; each chunk is compared.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chunks::Manifest;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt as _;
use ids::Digest;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};
use tonic::body::Body;
use transport::Channel;

use crate::{
    assembly,
    flights::Flights,
    http::{PATIENCE, leased, open, read},
    order::Lease,
    retry::Pauses,
    stop::Trouble,
};

/// A server that sends nothing for this long will not send it to us.
const GIVE_UP: Duration = Duration::from_mins(2);
/// How often a download may turn out to be something else.
const CORRUPT: u32 = 3;
const PIECE: usize = 128 * 1024;
/// Ending of the name of a list of chunks.
const LIST: &str = "chunks";

#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    limit: u64,
    flights: Flights,
    /// What a file looked like when its digest was last checked.
    checked: Mutex<HashMap<Digest, Stamp>>,
}

/// Changes whenever the file's content may have changed; the kernel keeps the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// A binary that is wanted, and by whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) digest: Digest,
    /// Bytes; 0: unknown.
    pub(crate) size: u64,
    pub(crate) lease: &'a Lease,
}

pub(crate) enum Fetch {
    Done,
    /// Bytes came, then it broke off.
    Advanced(String),
    /// Nothing came.
    Failed(String),
    /// What came cannot be it.
    Wrong(String),
}

impl Cache {
    pub(crate) fn new(dir: PathBuf, limit: u64) -> Arc<Self> {
        let (flights, checked) = (Flights::default(), Mutex::default());
        Arc::new(Self { dir, limit, flights, checked })
    }

    /// The path of the binary, downloaded where it is missing. Executable.
    pub(crate) async fn get(
        &self,
        channel: &Channel,
        wanted: Wanted<'_>,
    ) -> Result<PathBuf, Trouble> {
        let _flight = self.flights.enter(wanted.digest).await;
        let path = self.path(wanted.digest);
        if self.is_whole(wanted.digest, &path).await? {
            self.touch(wanted.digest, &path);
            return Ok(path);
        }
        if wanted.size > self.limit {
            return Err(Trouble::Worker(format!(
                "the pipeline's binary has {} bytes, more than this worker keeps: raise its --cache-limit of {}",
                wanted.size, self.limit
            )));
        }
        self.make_room(wanted.size, wanted.digest)
            .map_err(|error| Trouble::io("making room in the cache", error))?;
        self.download(channel, wanted, &path).await?;
        Ok(path)
    }

    /// Takes a binary that was built here. Answers with its digest, size and place.
    pub(crate) async fn put(&self, built: &Path) -> io::Result<(Digest, u64, PathBuf)> {
        let (digest, size) = digest_of(built).await?;
        let _flight = self.flights.enter(digest).await;
        let path = self.path(digest);
        let part = self.part(digest);
        self.make_room(size, digest)?;
        let copied = async {
            tokio::fs::copy(built, &part).await?;
            self.publish(digest, &part, &path, None).await
        };
        if let Err(error) = copied.await {
            // Nobody goes on with it, and others need the room.
            unlink(&part)?;
            return Err(error);
        }
        Ok((digest, size, path))
    }

    /// The binary that is here and the list of its chunks, made anew where it was lost.
    pub(crate) async fn chunked(&self, digest: Digest) -> io::Result<(fs::File, Manifest)> {
        let (path, list) = (self.path(digest), self.list(digest));
        let opened = tokio::task::spawn_blocking(move || {
            let file = fs::File::open(path)?;
            let known = fs::read(list).ok().and_then(|bytes| Manifest::decode(&bytes).ok());
            let manifest = known.map_or_else(|| assembly::cut(&file), Ok)?;
            Ok((file, manifest))
        });
        opened.await.expect("reading neither panics nor is aborted")
    }

    fn list(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}.{LIST}"))
    }

    /// The binaries that are here, with their chunks.
    fn lists(&self) -> Vec<(PathBuf, Manifest)> {
        let names = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let lists = names.map(|entry| entry.path()).filter(|path| is_list(path));
        lists
            .filter_map(|list| {
                let manifest = Manifest::decode(&fs::read(&list).ok()?).ok()?;
                Some((list.with_extension(""), manifest))
            })
            .collect()
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    fn part(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}.part"))
    }

    /// A file with the wrong content is removed.
    async fn is_whole(&self, digest: Digest, path: &Path) -> Result<bool, Trouble> {
        let trouble = |error| Trouble::io("reading the cache", error);
        let stamp = match Stamp::of(path) {
            Ok(stamp) => stamp,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(trouble(error)),
        };
        if self.checked().get(&digest) == Some(&stamp) {
            return Ok(true);
        }
        let (found, _) = digest_of(path).await.map_err(trouble)?;
        if found != digest {
            tracing::warn!(%digest, %found, "a cached binary was changed; fetching it again");
            fs::remove_file(path).map_err(trouble)?;
            return Ok(false);
        }
        self.checked().insert(digest, stamp);
        Ok(true)
    }

    async fn download(
        &self,
        channel: &Channel,
        wanted: Wanted<'_>,
        path: &Path,
    ) -> Result<(), Trouble> {
        let part = self.part(wanted.digest);
        let (mut pauses, mut corrupt, mut last_byte) = (Pauses::new(), 0, Instant::now());
        let mut source = Source::Unknown;
        loop {
            let why = match self.fetch(channel, wanted, &part, &mut source).await? {
                Fetch::Done => match digest_of(&part).await {
                    Ok((found, _)) if found == wanted.digest => {
                        let published = self.publish(wanted.digest, &part, path, source.list());
                        let published = published.await;
                        return published.map_err(|error| Trouble::io("keeping the binary", error));
                    }
                    Ok((found, _)) => {
                        corrupt += 1;
                        remove(&part)?;
                        source = Source::Whole;
                        format!("what came has the digest {found} instead of {}", wanted.digest)
                    }
                    Err(error) => return Err(Trouble::io("reading the binary", error)),
                },
                Fetch::Advanced(why) => {
                    last_byte = Instant::now();
                    pauses.reset();
                    why
                }
                Fetch::Failed(why) => why,
                Fetch::Wrong(why) => {
                    corrupt += 1;
                    // Of chunks only what was compared is there.
                    if matches!(source, Source::Whole) {
                        remove(&part)?;
                    }
                    why
                }
            };
            tracing::warn!(digest = %wanted.digest, why, "downloading a binary failed; trying again");
            if corrupt >= CORRUPT || last_byte.elapsed() > GIVE_UP {
                return Err(Trouble::Worker(format!("cannot download the pipeline: {why}")));
            }
            pauses.pause().await;
        }
    }

    async fn fetch(
        &self,
        channel: &Channel,
        wanted: Wanted<'_>,
        part: &Path,
        source: &mut Source,
    ) -> Result<Fetch, Trouble> {
        if matches!(source, Source::Unknown) {
            let most = if wanted.size == 0 { self.limit } else { wanted.size };
            match assembly::manifest(channel, wanted, most).await {
                Ok(Some(manifest)) => *source = Source::Chunks(manifest),
                Ok(None) => *source = Source::Whole,
                Err(why) => return Ok(Fetch::Failed(why)),
            }
        }
        match source {
            Source::Chunks(manifest) => {
                assembly::fetch(channel, wanted, manifest, part, self.lists()).await
            }
            Source::Unknown | Source::Whole => fetch(channel, wanted, part, self.limit).await,
        }
    }

    /// From here on the file is there for all.
    async fn publish(
        &self,
        digest: Digest,
        part: &Path,
        path: &Path,
        list: Option<&Manifest>,
    ) -> io::Result<()> {
        let file = File::open(part).await?;
        file.sync_all().await?;
        let list = if let Some(list) = list {
            list.encode()
        } else {
            let file = file.into_std().await;
            let cut = tokio::task::spawn_blocking(move || assembly::cut(&file));
            cut.await.expect("reading neither panics nor is aborted")?.encode()
        };
        // It is of use only, and read with care.
        fs::write(self.list(digest), list)?;
        fs::set_permissions(part, fs::Permissions::from_mode(0o700))?;
        fs::rename(part, path)?;
        self.checked().insert(digest, Stamp::of(path)?);
        Ok(())
    }

    /// Removes the least recently used binaries until there is room, and what was half downloaded and
    /// nobody goes on with. One that runs keeps running: its file lives on without a name.
    fn make_room(&self, size: u64, keep: Digest) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(meta) => files.push((meta.modified()?, meta.len(), entry.path())),
                // Another run makes room too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        files.sort();
        let mut total = size + files.iter().map(|(_, size, _)| size).sum::<u64>();
        for (_, size, path) in files {
            let digest = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
            if is_list(&path) {
                // It goes with its binary; a crash may have left it alone.
                let is_alone = !path.with_extension("").exists();
                if is_alone && !digest.is_some_and(|digest| self.flights.is_taken(digest)) {
                    unlink(&path)?;
                }
                continue;
            }
            let is_part = path.extension().is_some();
            let is_used = digest.is_some_and(|digest| is_part && self.flights.is_taken(digest));
            if total > self.limit && digest != Some(keep) && !is_used {
                unlink(&path)?;
                fs::remove_file(path.with_extension(LIST)).ok();
                total -= size;
            }
        }
        Ok(())
    }

    /// Marks a binary as used just now; what goes first depends on it, and nothing else.
    fn touch(&self, digest: Digest, path: &Path) {
        let now = time::OffsetDateTime::now_utc().into();
        let touched = fs::File::open(path).and_then(|file| file.set_modified(now));
        if let Ok(stamp) = touched.and_then(|()| Stamp::of(path)) {
            self.checked().insert(digest, stamp);
        }
    }

    fn checked(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Stamp>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the server sends a binary.
enum Source {
    Unknown,
    Chunks(Manifest),
    Whole,
}

impl Source {
    fn list(&self) -> Option<&Manifest> {
        match self {
            Self::Chunks(manifest) => Some(manifest),
            Self::Unknown | Self::Whole => None,
        }
    }
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == LIST)
}

fn remove(part: &Path) -> Result<(), Trouble> {
    unlink(part).map_err(|error| Trouble::io("removing a download", error))
}

/// What is gone already is as good as removed.
fn unlink(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `most`: bytes of a binary whose size is not known.
async fn fetch(
    channel: &Channel,
    wanted: Wanted<'_>,
    part: &Path,
    most: u64,
) -> Result<Fetch, Trouble> {
    let trouble = |error: io::Error| {
        if error.kind() == io::ErrorKind::StorageFull {
            // Nobody goes on with it here, and others need the room.
            fs::remove_file(part).ok();
        }
        Trouble::io("writing the binary", error)
    };
    let have = fs::metadata(part).map_or(0, |meta| meta.len());
    if have > 0 && have == wanted.size {
        return Ok(Fetch::Done);
    }
    let path = format!("/artifacts/sha256/{}", wanted.digest);
    let mut request = leased(Method::GET, &path, wanted.lease);
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let request = request.body(Body::empty()).expect("ids make a valid request");
    let response = match open(channel, request).await {
        Ok(response) => response,
        Err(error) => return Ok(Fetch::Failed(error.to_string())),
    };
    let (file, start) = match response.status() {
        StatusCode::OK => (File::create(part).await, 0),
        StatusCode::PARTIAL_CONTENT if !goes_on_at(&response, have) => {
            return Ok(Fetch::Wrong(format!("what came is not from byte {have} on")));
        }
        StatusCode::PARTIAL_CONTENT => (File::options().append(true).open(part).await, have),
        // Ours is as long or longer; its digest will tell.
        StatusCode::RANGE_NOT_SATISFIABLE => return Ok(Fetch::Done),
        _ => return refused(response).await,
    };
    let most = if wanted.size == 0 { most } else { wanted.size };
    let (body, file) = (response.into_body(), file.map_err(trouble)?);
    let fetched = append(body, file, most.saturating_sub(start)).await.map_err(trouble)?;
    let short = fs::metadata(part).map_err(trouble)?.len() < wanted.size;
    Ok(match fetched {
        Fetch::Done if short => Fetch::Advanced("the transfer ended too early".into()),
        fetched => fetched,
    })
}

fn goes_on_at(response: &http::Response<Body>, have: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|it| it.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")))
}

async fn refused(response: http::Response<Body>) -> Result<Fetch, Trouble> {
    let status = response.status();
    let answer = match read(response).await {
        Ok(answer) => answer,
        Err(error) => return Ok(Fetch::Failed(error.to_string())),
    };
    let why = format!("the server refused to send the pipeline: {}", answer.text());
    match status {
        _ if answer.is_passing_for_worker() => Ok(Fetch::Failed(why)),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(Trouble::Pipeline(why)),
        _ => Err(Trouble::Worker(why)),
    }
}

/// At most `most` bytes: who sends more does not send what is wanted.
async fn append(mut body: Body, mut file: File, most: u64) -> io::Result<Fetch> {
    let mut count = 0;
    let end = loop {
        match timeout(PATIENCE, body.frame()).await {
            Ok(None) => break Ok(()),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    count += data.len() as u64;
                    if count > most {
                        return Ok(Fetch::Wrong(format!("more than the {most} bytes came")));
                    }
                    file.write_all(&data).await?;
                }
            }
            Ok(Some(Err(error))) => break Err(format!("the transfer broke off: {error}")),
            Err(_) => break Err("the transfer stalled".to_owned()),
        }
    };
    file.flush().await?;
    Ok(match end {
        Ok(()) => Fetch::Done,
        Err(why) if count > 0 => Fetch::Advanced(why),
        Err(why) => Fetch::Failed(why),
    })
}

/// The digest and size of a file.
pub(crate) async fn digest_of(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = File::open(path).await?;
    let (mut hash, mut size, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        match file.read(&mut piece).await? {
            0 => return Ok((Digest::from_bytes(hash.finalize().into()), size)),
            count => {
                hash.update(&piece[..count]);
                size += count as u64;
            }
        }
    }
}
