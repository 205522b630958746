/* Debian's SQLite on a file in /tmp: tables, transactions, an index, and a write-ahead log, whose
 * index is memory shared with a file. Prints what it finds, the same as on Linux. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static sqlite3 *database;

static int show(void *unused, int count, char **values, char **names) {
    (void)unused, (void)names;
    for (int i = 0; i < count; i++) printf("%s%s", values[i] ? values[i] : "NULL", i + 1 < count ? "|" : "\n");
    return 0;
}

static void run(const char *text) {
    char *error = 0;
    if (sqlite3_exec(database, text, show, 0, &error) != SQLITE_OK) {
        printf("FAILED %s: %s\n", text, error);
        exit(1);
    }
}

int main(void) {
    const char *path = "/tmp/pilotlight-test.db";
    unlink(path);
    for (int round = 0; round < 2; round++) {
        if (sqlite3_open(path, &database) != SQLITE_OK) return 1;
        if (round == 0) run("PRAGMA journal_mode=DELETE; CREATE TABLE words(id INTEGER PRIMARY KEY, word TEXT, size INT)");
        if (round == 1) run("PRAGMA journal_mode=WAL");
        run("BEGIN");
        for (int i = 0; i < 2000; i++) {
            char *text = sqlite3_mprintf("INSERT INTO words(word, size) VALUES('word %d of %d', %d)", i, round, i * 7 % 1000);
            run(text);
            sqlite3_free(text);
        }
        run("COMMIT");
        run("BEGIN; DELETE FROM words; ROLLBACK");
        run("SELECT count(*), sum(size), min(word), max(word) FROM words");
        run("CREATE INDEX IF NOT EXISTS by_size ON words(size)");
        run("SELECT size, count(*) FROM words WHERE size BETWEEN 10 AND 14 GROUP BY size ORDER BY size");
        run("SELECT upper(word) FROM words ORDER BY size DESC, id LIMIT 3");
        run("PRAGMA integrity_check; PRAGMA wal_checkpoint(TRUNCATE)");
        run("VACUUM");
        if (sqlite3_close(database) != SQLITE_OK) return 2;
    }
    return unlink(path);
}
