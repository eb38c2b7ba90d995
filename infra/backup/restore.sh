#!/usr/bin/env bash
# Put a backup back, into an empty home at the same path (and, with Postgres, empty databases):
#   infra/backup/restore.sh SOURCE && kontext artifacts verify
set -euo pipefail

from="${1:?usage: restore.sh SOURCE}"
home="${KONTEXT_HOME:-.kontext}"
mkdir -p "$home"
store="${KONTEXT_STORE:-file://$(cd "$home" && pwd)/store}"
catalog="${KONTEXT_CATALOG:-$home/catalog.sqlite}"
if [[ -e "$catalog" ]]; then
  echo "$catalog exists: restore into an empty home" >&2
  exit 1
fi

case "$store" in
  file://*) mkdir -p "${store#file://}" && cp -a "$from/store/." "${store#file://}/" ;;
  s3://*) aws s3 sync --only-show-errors "$from/store" "$store" ;;
esac
if [[ "$catalog" == postgres://* ]]; then
  pg_restore --no-owner --exit-on-error --dbname="$catalog" "$from/catalog.dump"
elif [[ -f "$from/catalog.sqlite" ]]; then
  cp "$from/catalog.sqlite" "$catalog"
fi
if [[ -f "$from/safety.key" ]]; then install -m 600 "$from/safety.key" "$home/safety.key"; fi
if [[ -f "$from/edits.sqlite" ]]; then install -m 600 "$from/edits.sqlite" "$home/edits.sqlite"; fi
if [[ -d "$from/ledger-heads" ]]; then cp -a "$from/ledger-heads" "$home/"; fi
if [[ -f "$from/prefect.dump" && "${KONTEXT_PREFECT_DB:-}" == postgresql* ]]; then
  pg_restore --clean --if-exists --dbname="${KONTEXT_PREFECT_DB/+asyncpg/}" "$from/prefect.dump"
fi
echo "restored to $home; check it with: kontext artifacts verify"
