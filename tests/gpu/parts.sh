# Runs parts one after the other: one that fails, or lasts longer than its limit, does not keep the next from running.
# To be sourced, with OUT, the folder of what is written, and PYTHON set:
#   part NAME SECONDS PATTERN COMMAND...   its figures are the lines of its output that match the extended regular expression
#   summary                                the table; fails if a part did
# $OUT/log.txt gets the output of all parts, $OUT/figures.jsonl a line for each, with date and versions.

names=() states=() seconds=() said=()

part() {
  local name=$1 limit=$2 pattern=$3 log before started code state=ok took figures
  shift 3
  log=$(mktemp)
  started=$(date +%s)
  printf '\n== %s: %s\n' "$name" "$*" >>"$OUT/log.txt"
  before=$(stat -c %s "$OUT/log.txt")
  # Into the log at once: what there was is known even if all is killed. No pipe, which a process left behind would hold.
  timeout --kill-after=3 "$((limit > 3 ? limit - 3 : limit))" "$@" </dev/null >>"$OUT/log.txt" 2>&1
  code=$?
  tail -c "+$((before + 1))" "$OUT/log.txt" >"$log"
  took=$(($(date +%s) - started))
  # Killed, 137, is also who takes too much memory.
  if [ "$code" = 124 ] || { [ "$code" = 137 ] && [ "$took" -ge "$((limit - 3))" ]; }; then
    state=TIMEOUT
  elif [ "$code" != 0 ]; then
    state=FAILED
  fi
  figures=$(grep -E -- "$pattern" "$log" | tail -n 12)
  printf '%-8s %-10s %4s s\n' "$state" "$name" "$took"
  [ -z "$figures" ] || printf '%s\n' "$figures"
  [ "$state" = ok ] || tail -n 8 "$log" | sed 's/^/    | /'
  names+=("$name") states+=("$state") seconds+=("$took") said+=("$(tail -n 1 <<<"$figures" | tr -s ' ')")
  "$PYTHON" - "$OUT/figures.jsonl" "$name" "$state" "$took" "$figures" <<'PYTHON'
import json, sys, time
from importlib.metadata import PackageNotFoundError, version

def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None

path, name, state, took, figures = sys.argv[1:]
versions = {package: installed(package) for package in ("torch", "transformers", "pytorch-lightning", "deepspeed", "peft")}
line = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "part": name, "state": state, "seconds": int(took)}
line |= {"figures": figures.splitlines(), "python": sys.version.split()[0], "versions": versions}
with open(path, "a", encoding="utf-8") as file:
    file.write(json.dumps(line) + "\n")
PYTHON
  rm "$log"
}

summary() {
  local number failed=0
  printf '\n%-10s %-8s %7s  %s\n' part state seconds figure
  for number in "${!names[@]}"; do
    printf '%-10s %-8s %7s  %s\n' "${names[number]}" "${states[number]}" "${seconds[number]}" "${said[number]}"
    [ "${states[number]}" = ok ] || failed=1
  done
  echo "wrote $OUT/figures.jsonl and $OUT/log.txt"
  return "$failed"
}
