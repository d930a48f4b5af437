#!/usr/bin/env bash
# get_corpus.sh kjv FOLDER: the King James Bible (public domain) from Debian's package bible-kjv, one file per book:
#
#   FOLDER/train/01-Ge.txt ...        the first 95 % of the text
#   FOLDER/validation/01-Col.txt ...  the last 5 %; the book that the cut runs through has a part on each side
#
# The files of both folders, one after the other, are the text byte for byte.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
case ${1:-} in
  --help | -h) help_and_exit ;;
  kjv) [ $# = 2 ] || die "give the folder to write to: get_corpus.sh kjv FOLDER" ;;
  *) die "unknown corpus '${1:-}'; there is: kjv" ;;
esac
folder=$2

# Every line begins with its book's abbreviation, chapter and verse: "1Sa3:4 And the LORD ...".
split_books() {
  rm -rf "$folder/train" "$folder/validation"
  mkdir -p "$folder/train" "$folder/validation"
  bible -f gen1:1-rev22:21 >"$folder/all.txt"
  LC_ALL=C awk -v bytes="$(wc -c <"$folder/all.txt")" -v folder="$folder" '
    { part = position < bytes * 0.95 ? "train" : "validation"
      position += length($0) + 1
      book = $1; sub(/[0-9]+:[0-9]+$/, "", book)
      if (book != last || part != last_part) { if (file) close(file); file = sprintf("%s/%s/%02d-%s.txt", folder, part, ++count[part], book) }
      last = book; last_part = part
      print >file }' "$folder/all.txt"
  cat "$folder"/train/*.txt "$folder"/validation/*.txt | cmp - "$folder/all.txt"
  rm "$folder/all.txt"
  touch "$folder/.complete"
}

if [ -f "$folder/.complete" ]; then exit 0; fi
PATH=$PATH:/usr/games
command -v bible >/dev/null ||
  step "package bible-kjv" "Is the network there? Else install Debian's package bible-kjv by hand." install_packages bible-kjv
step "books of the King James Bible into $folder" "Is the folder writable, and is there room on the disk?" split_books
