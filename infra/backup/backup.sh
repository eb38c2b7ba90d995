#!/usr/bin/env bash
# Back up everything that cannot be made again by a rerun: artifacts, tags, ledger, watermarks,
# catalog (SQLite or Postgres) and, with Postgres, Prefect's database.
#   infra/backup/backup.sh DESTINATION
# The order matters: the catalog first, then the store, so that every file that a saved snapshot
# names is in the copy (files are only ever added while nothing collects garbage).
set -euo pipefail

to="${1:?usage: backup.sh DESTINATION}"
home="${KONTEXT_HOME:-.kontext}"
store="${KONTEXT_STORE:-file://$(cd "$home" && pwd)/store}"
catalog="${KONTEXT_CATALOG:-$home/catalog.sqlite}"
mkdir -p "$to"

copy_sqlite() {
  python3 - "$1" "$2" <<'PY'
import contextlib, sqlite3, sys
with contextlib.closing(sqlite3.connect(sys.argv[1])) as source:
    with contextlib.closing(sqlite3.connect(sys.argv[2])) as target:
        source.backup(target)  # consistent while others write
PY
}

if [[ "$catalog" == postgres://* ]]; then
  pg_dump --format=custom --file="$to/catalog.dump" "$catalog"
elif [[ -f "$catalog" ]]; then
  copy_sqlite "$catalog" "$to/catalog.sqlite"
fi
if [[ -f "$home/edits.sqlite" ]]; then # sealed: what the home's last edits began with
  copy_sqlite "$home/edits.sqlite" "$to/edits.sqlite"
fi
if [[ -f "$home/safety.key" ]]; then
  install -m 600 "$home/safety.key" "$to/safety.key"
fi
if [[ -z "${KONTEXT_LEDGER_HEADS:-}" && -d "$home/ledger-heads" ]]; then
  cp -a "$home/ledger-heads" "$to/"  # before the store: it must not know of more than is there
fi
case "$store" in
  file://*) mkdir -p "$to/store" && cp -a "${store#file://}/." "$to/store/" ;;
  s3://*) aws s3 sync --only-show-errors "$store" "$to/store" ;;
esac
if [[ "${KONTEXT_PREFECT_DB:-}" == postgresql* ]]; then
  pg_dump --format=custom --file="$to/prefect.dump" "${KONTEXT_PREFECT_DB/+asyncpg/}"
fi
echo "backed up to $to"
