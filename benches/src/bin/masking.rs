//! How fast secrets are taken out of output: `cargo run --release -p benches --bin masking`.
//!
//! One core, 256 MiB in pieces of 16 KiB as they come from a pipe: lines of a build without and with a secret in
//! every hundredth of them, for 0, 5 and 50 secrets; beside it what copying the same bytes costs.

use agent::mask::{Masker, Secrets};
use benches::{load, mebibytes, now};

const TOTAL: usize = 256 << 20;
const PIECE: usize = 16 << 10;

fn main() {
    println!("load average: {}", load());
    let values: Vec<String> = (0..50_u32)
        .map(|number| ids::Digest::of(&number.to_le_bytes()).to_string()[..32].to_owned())
        .collect();
    let text = |secret: &str| {
        let line = "   Compiling some-crate v1.2.3 (registry): ok in 0.42 s\n";
        let lines = (0..10_000).map(|number| match number % 100 {
            0 => format!("token={secret} {line}"),
            _ => line.to_owned(),
        });
        lines.collect::<String>().into_bytes()
    };
    let clean = text("none");
    let begun = now();
    let mut copied = 0;
    for piece in pieces(&clean) {
        copied += std::hint::black_box(piece.to_vec()).len();
    }
    println!("copying: {:.0} MiB/s", mebibytes(copied, begun.elapsed()));
    for count in [0, 5, 50] {
        for (name, text) in [("without", &clean), ("with", &text(&values[0]))] {
            let mut masker = Masker::new(Secrets::new(values[..count].iter().map(String::as_str)));
            let (mut taken, begun) = (0, now());
            for piece in pieces(text) {
                taken += piece.len();
                std::hint::black_box(masker.push(piece));
            }
            println!(
                "{count} secrets, text {name} one: {:.0} MiB/s",
                mebibytes(taken, begun.elapsed())
            );
        }
    }
    println!("load average: {}", load());
}

fn pieces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.chunks(PIECE).cycle().scan(0, |sent, piece| {
        *sent += piece.len();
        (*sent <= TOTAL).then_some(piece)
    })
}
