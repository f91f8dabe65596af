//! The real engine on files that are torn, rotten and lost: whatever was acknowledged is there, or
//! its loss is named.
//!
//! Each seed writes a store, takes images of its files as a crash or a stop would leave them,
//! damages those and opens them. `MERPATI_SEEDS` says how many seeds to try, `MERPATI_SEED` which
//! one alone.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the files of tests are small"
)]

mod world;

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::faults;
use world::{
    Damage, End, Model, Written, all, damage, key, newest_journal, opening, random_batch, write,
};
pub use world::{files, scratch, written};

/// Seeds that are tried unless it is said otherwise.
const SEEDS: u64 = 300;

/// What a store answers; an error where it gives one.
#[derive(Debug)]
struct Answers {
    values: BTreeMap<Key, Result<Option<Vec<u8>>, StoreError>>,
    entries: Result<Vec<(u64, Vec<u8>)>, StoreError>,
    listed: Result<BTreeMap<Key, Vec<u8>>, StoreError>,
}

async fn ask(store: &Embedded) -> Answers {
    let mut values = BTreeMap::new();
    for n in 0..12 {
        let found = store.get(&key(n)).await;
        let value = found.map(|found| found.map(|found| found.value.to_vec()));
        values.insert(key(n), value);
    }
    let limit = PageLimit {
        entries: 1000,
        bytes: usize::MAX,
    };
    let page = store.read(&all(), Position(0), limit).await;
    let entries = page.map(|page| {
        let entries = page.entries.into_iter();
        entries
            .map(|(position, entry)| (position.0, entry))
            .collect()
    });
    let listed = store.list(&Prefix(b"k"[..].into()), None, 1000).await;
    let listed = listed.map(|listed| {
        let listed = listed.into_iter();
        listed
            .map(|(key, value)| (key, value.value.to_vec()))
            .collect()
    });
    Answers {
        values,
        entries,
        listed,
    }
}

impl Answers {
    /// True when all that was answered is what the model says.
    fn fits(&self, model: &Model) -> bool {
        let entries = || (1..).zip(model.entries.iter().cloned()).collect::<Vec<_>>();
        self.values.iter().all(|(key, found)| {
            found.as_ref().is_err()
                || found
                    .as_ref()
                    .is_ok_and(|found| found.as_ref() == model.values.get(key))
        }) && self
            .entries
            .as_ref()
            .map_or(true, |found| *found == entries())
            && self
                .listed
                .as_ref()
                .map_or(true, |found| *found == model.values)
    }

    fn summary(&self) -> String {
        let entries = self.entries.as_ref().map(Vec::len);
        let listed = self.listed.as_ref().map(BTreeMap::len);
        format!("{entries:?} entries, {listed:?} values")
    }

    /// True when something could not be read.
    fn has_error(&self) -> bool {
        self.entries.is_err() || self.listed.is_err() || self.values.values().any(Result::is_err)
    }
}

/// Opens an image and looks at what is served of it. What is wrong with that, if anything is.
async fn look(
    rng: &mut StdRng,
    seed_world: &Written,
    damaged: &(Damage, PathBuf, Range<u64>),
) -> Result<(), String> {
    let world = seed_world;
    let image = world.image();
    let (kind, path, range) = damaged;
    let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
    let is_mark = path
        .extension()
        .is_some_and(|extension| extension == "mark");
    let is_sound = *kind == Damage::Nothing || is_mark || path.ends_with("lock");
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Embedded::open_as(&image, opening(false))
    }));
    let store = match opened.map_err(|_| "opening it panicked".to_owned())? {
        Ok(store) => store,
        Err(error) if is_sound => return Err(format!("a sound store was refused: {error}")),
        Err(
            error @ (OpenError::Lost { .. } | OpenError::Damaged { .. } | OpenError::Io { .. }),
        ) => {
            return if matches!(error, OpenError::Lost { .. }) {
                accept(world, damaged).await
            } else {
                Ok(())
            };
        }
        Err(error) => return Err(format!("the damage was not named: {error}")),
    };
    let answers = ask(&store).await;
    let mut allowed = vec![world.acknowledged];
    if world.end != End::Stop {
        // It was being written, and may be whole.
        allowed.push(world.acknowledged + 1);
    }
    if *kind != Damage::Nothing && is_journal {
        // Where nothing is left behind what was damaged, that cannot be told from what was not
        // acknowledged; but by the mark.
        for n in (world.marked..world.acknowledged).rev() {
            if !world.touches(range, n + 1) {
                break;
            }
            allowed.push(n);
        }
    }
    if !allowed.iter().any(|n| {
        world
            .models
            .get(*n)
            .is_some_and(|model| answers.fits(model))
    }) {
        return Err(format!(
            "something is missing, or invented: {}, {:?}",
            answers.summary(),
            store.report()
        ));
    }
    if answers.has_error() && is_sound {
        return Err(format!(
            "a sound store answers errors: {}",
            answers.summary()
        ));
    }
    if !answers.has_error() && rng.random_bool(0.3) {
        let put = Key(b"later"[..].into());
        let mut batch = Batch::new();
        batch.put(put.clone(), b"1".to_vec());
        store
            .commit(batch)
            .await
            .map_err(|error| format!("it is not writable: {error}"))?;
        drop(store);
        let store = Embedded::open_as(&image, opening(false));
        let store = store.map_err(|error| format!("it opens once only: {error}"))?;
        let found = store.get(&put).await.map_err(|error| error.to_string())?;
        let again = ask(&store).await;
        if found.is_none() || format!("{again:?}") != format!("{answers:?}") {
            return Err("what was there is gone at the next start".into());
        }
    }
    Ok(())
}

/// Goes on without what is lost: nothing is invented, and only what was damaged is lost.
async fn accept(
    world: &Written,
    (_, path, range): &(Damage, PathBuf, Range<u64>),
) -> Result<(), String> {
    let image = world.image();
    let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Embedded::open_as(&image, opening(true))
    }));
    let store = match opened.map_err(|_| "accepting it panicked".to_owned())? {
        Ok(store) => store,
        Err(error) => return Err(format!("accepting the loss does not help: {error}")),
    };
    let answers = ask(&store).await;
    for (key, found) in &answers.values {
        let was = |value: &Option<Vec<u8>>| {
            world
                .models
                .iter()
                .any(|model| model.values.get(key) == value.as_ref())
        };
        if found.as_ref().is_ok_and(|found| !was(found)) {
            return Err(format!("invented under {key:?}"));
        }
    }
    let last = world.models.last().unwrap();
    let entries = answers.entries.unwrap_or_default();
    let mut lost: Vec<usize> = (1..=world.acknowledged).collect();
    for (position, entry) in entries {
        let n = position as usize;
        if last.entries.get(n - 1) != Some(&entry) {
            return Err(format!("invented at position {n}"));
        }
        lost.retain(|lost| *lost != n);
    }
    if is_journal && path.exists() && store.report().missing.is_empty() {
        // A cut record ends where the next may have been written.
        lost.retain(|n| !world.touches(range, *n));
        if !lost.is_empty() && world.ends.is_sorted() {
            return Err(format!(
                "{lost:?} are lost, which are not damaged: {range:?}, {:?}",
                world.ends
            ));
        }
    }
    drop(store);
    let again = Embedded::open_as(&image, opening(false));
    again.map_err(|error| format!("accepted once is not enough: {error}"))?;
    Ok(())
}

/// A sync fails, and nothing that is served afterwards depends on what it left.
async fn failing(rng: &mut StdRng) -> Result<(), String> {
    let directory = scratch();
    let store = Embedded::open_as(directory.path(), opening(false)).unwrap();
    let mut model = Model::default();
    for _ in 0..rng.random_range(0..4) {
        store.commit(random_batch(rng, &mut model)).await.unwrap();
    }
    let mut next = model.clone();
    let batch = random_batch(rng, &mut next);
    fail_next_sync(directory.path());
    match store.commit(batch).await {
        Err(CommitError::Store(StoreError::Failed(_))) => {}
        other => return Err(format!("a sync failed, and the answer was {other:?}")),
    }
    if store
        .commit(random_batch(rng, &mut next.clone()))
        .await
        .is_ok()
    {
        return Err("something was written after a sync had failed".into());
    }
    let answers = ask(&store).await;
    if answers.values.values().any(Result::is_ok)
        || answers.entries.is_ok()
        || answers.listed.is_ok()
    {
        return Err("something was served after a sync had failed".into());
    }
    drop(store);
    // The same process opens it again, or it has ended and another does, which was told nothing.
    let after = Opening {
        is_after_failure: rng.random_bool(0.5),
        ..opening(false)
    };
    let journal = newest_journal(directory.path());
    let written_before = fs::metadata(&journal).unwrap();
    let store = Embedded::open_as(directory.path(), after).map_err(|error| error.to_string())?;
    if is_same_file(&written_before, &fs::metadata(&journal).unwrap()) {
        return Err("the journal whose sync failed is still in use".into());
    }
    let answers = ask(&store).await;
    if answers.has_error() || !(answers.fits(&model) || answers.fits(&next)) {
        return Err(format!(
            "after it was opened again something is missing: {}",
            answers.summary()
        ));
    }
    drop(store);
    let trusted = fs::metadata(&journal).unwrap();
    drop(Embedded::open_as(directory.path(), opening(false)).map_err(|error| error.to_string())?);
    if !is_same_file(&trusted, &fs::metadata(&journal).unwrap()) {
        return Err("the journal is distrusted for ever".into());
    }
    Ok(())
}

#[cfg(unix)]
fn is_same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    one.ino() == other.ino()
}

#[cfg(not(unix))]
fn is_same_file(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    false
}

/// One seed; what is wrong, if anything is.
fn run(seed: u64) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        // That a journal was written anew is found by them, too; but there is more to find.
        if rng.random_bool(0.1) && !is_planted(Fault::SkipExamine) {
            return failing(&mut rng).await;
        }
        let world = write(&mut rng).await;
        let damaged = damage(&mut rng, &world.image());
        let wrong = look(&mut rng, &world, &damaged).await;
        wrong.map_err(|wrong| {
            format!(
                "{:?}, {damaged:?}, acknowledged {} of {:?}, marked {}: {wrong}",
                world.end, world.acknowledged, world.ends, world.marked
            )
        })
    })
}

/// ERR-1: whatever happens to the files, what was acknowledged is there or its loss is named,
/// nothing is invented, and what was not acknowledged is wholly there or not at all.
#[test]
fn damage_is_named_and_nothing_is_invented() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("MERPATI_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MERPATI_SEEDS").unwrap_or(SEEDS),
    };
    let wrong: Vec<_> = seeds
        .filter_map(|seed| run(seed).err().map(|wrong| (seed, wrong)))
        .take(10)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each mend is taken back, and each time some seed finds it.
#[test]
fn damage_planted_faults_are_found() {
    for fault in [
        Fault::SkipExamine,
        Fault::IgnoreMark,
        Fault::TrustAfterFailedSync,
        Fault::ServeDamageAsNothing,
    ] {
        faults::plant(Some(fault));
        let found = (0..2000).find_map(|seed| run(seed).err().map(|wrong| (seed, wrong)));
        faults::plant(None);
        let (seed, wrong) = found.unwrap_or_else(|| panic!("{fault:?} is not found"));
        let wrong: String = wrong.chars().take(120).collect();
        eprintln!("{fault:?} is found by seed {seed}: {wrong}");
    }
}
