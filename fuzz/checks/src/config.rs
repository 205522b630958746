//! The configuration: one that is accepted passes its own check again, means the same once it was
//! written and read again, and gives limits a shard can keep.

use abi::layout::WINDOW_BYTES;
use pilotlight::Config;
use pilotlight::config::SHARDS_MAX;

/// Numbers that are changed.
const CHANGES_MAX: usize = 16;

/// `data` is a configuration file; or, behind a zero, which begins none, changes of the default one's
/// numbers, because a mutation of text rarely leaves one that fits the others.
pub fn check(data: &[u8]) -> bool {
    match data.split_first() {
        Some((0, changes)) => change(changes).is_ok_and(|accepted| accepted > 0),
        _ => std::str::from_utf8(data).is_ok_and(parse),
    }
}

/// How many changes were accepted: four bytes for each say which number, and what it is to be. One
/// that is refused is taken back.
fn change(data: &[u8]) -> Result<usize, toml::ser::Error> {
    let mut tables = toml::Table::try_from(Config::default())?;
    let mut accepted = 0;
    for change in data.chunks_exact(4).take(CHANGES_MAX) {
        let small = i64::from(u16::from_le_bytes([change[2], change[3]]));
        let number = match change[1] % 4 {
            0 => small,
            1 => small << (change[1] / 4 % 48),
            2 => (1 << (change[2] % 63)) - i64::from(change[3] % 2),
            _ => i64::MAX - small,
        };
        let before = set(&mut tables, change[0], number);
        if parse(&toml::to_string(&tables)?) {
            accepted += 1;
        } else {
            set(&mut tables, change[0], before);
        }
    }
    Ok(accepted)
}

/// Sets one of the numbers in the tables, and returns what it was.
fn set(tables: &mut toml::Table, place: u8, number: i64) -> i64 {
    let tables_of_keys = tables.iter_mut().filter_map(|(_, table)| table.as_table_mut());
    let values = tables_of_keys.flat_map(|table| table.iter_mut().map(|(_, value)| value));
    let mut numbers: Vec<_> = values.filter(|value| value.is_integer()).collect();
    let place = usize::from(place) % numbers.len();
    let before = std::mem::replace(&mut *numbers[place], toml::Value::Integer(number));
    before.as_integer().unwrap_or(0)
}

fn parse(text: &str) -> bool {
    let config = match Config::parse(text) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().trim().is_empty(), "a refusal has a reason");
            return false;
        }
    };
    assert_eq!(config.check(), Ok(()));
    let written = toml::to_string(&config);
    assert!(written.is_ok(), "what was read can be written: {written:?}");
    let again = Config::parse(&written.unwrap_or_default());
    assert_eq!(again.as_ref(), Ok(&config), "and read again");
    limits(&config);
    cores(&config);
    true
}

fn limits(config: &Config) {
    let _ = (config.poll_nanos(), config.shard_poll_nanos(), config.verify_nanos_max());
    let _ = (config.account_wait_nanos(), config.ram_bytes());
    assert!(config.requests.memory_mib_default <= config.memory_mib_max());
    for shards in [1, 2, 3, SHARDS_MAX] {
        for root_image_bytes in [0, 5000, WINDOW_BYTES] {
            let shards = u32::try_from(shards).unwrap_or(1);
            let limits = config.pool_limits(shards, root_image_bytes);
            assert!(limits.vms_max >= 1 && limits.warm_max <= limits.vms_max);
            assert!(limits.warm_min <= limits.warm_target);
            assert!(limits.warm_target <= limits.warm_max);
            assert!(limits.window_start + limits.window_bytes <= WINDOW_BYTES);
        }
    }
}

/// Every core that is given out is one of those there are, and neither side has none.
fn cores(config: &Config) {
    for available in [&[0_u32][..], &[0, 1], &[2, 3, 5, 7]] {
        let Ok(split) = config.core_split(available) else { continue };
        assert!((1..=SHARDS_MAX).contains(&split.shards.len()) && !split.guests.is_empty());
        assert!(split.shards.iter().chain(&split.guests).all(|core| available.contains(core)));
    }
}
