"""The mutants of tests/mutants/*.txt: reads the lists and writes mutated copies of the sources.

A list is made of files and, below each, its mutants (docs/mutation.md):

    file core/src/special.cpp
    first core/test_special            test sources to try first

    20 D by series: stops at 1e-8      number and description
    at double derivative_by_series(    optional: search from here to the end of this function or class
    - term > 1e-17 * sum               what is replaced: only the part within {{ }} if there is one
    + term > 1e-8 * sum                by what
    equivalent the reason why          optional: no test can tell it from the original
"""

import argparse
import pathlib
import re
import sys

LISTS = pathlib.Path(__file__).resolve().parent
ROOT = LISTS.parent.parent


class Mistake(Exception):
    pass


class Mutant:
    def __init__(self, number, text, file, first, origin):
        self.number, self.text, self.file, self.first, self.origin = number, text, file, first, origin
        self.anchor = self.find = self.replacement = self.equivalent = None


def read_list(path):
    mutants, file, first, mutant = [], None, [], None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        origin = f"{path.name}:{number}"
        word, _, rest = line.strip().partition(" ")
        if not word or word == "#":
            continue
        if word == "file":
            file, first, mutant = rest, [], None
        elif word == "first":
            first = rest.split()
        elif word.isdigit():
            mutant = Mutant(int(word), rest, file, first, origin)
            mutants.append(mutant)
        elif mutant and word in ("at", "-", "+", "equivalent"):
            name = {"at": "anchor", "-": "find", "+": "replacement"}.get(word, word)
            setattr(mutant, name, rest)
        else:
            raise Mistake(f"{origin}: expected file, first, at, -, +, equivalent or a number, got {word}")
    for mutant in mutants:
        if mutant.file is None or not mutant.find or mutant.replacement is None:
            raise Mistake(f"{mutant.origin}: expected a file, a - line and a + line, got less")
    return mutants


def read_lists():
    mutants = [m for path in sorted(LISTS.glob("*.txt")) for m in read_list(path)]
    seen = {}
    for m in mutants:
        if m.number in seen or m.number == 0:
            raise Mistake(f"{m.origin}: expected a number of its own, got {m.number} again ({seen.get(m.number)})")
        seen[m.number] = m.origin
    return sorted(mutants, key=lambda m: m.number)


def pattern(snippet):
    """The snippet as a regular expression that takes any white space where the snippet has some."""
    return r"\s+".join(re.escape(word) for word in snippet.split())


def occurrences(expression, source, begin, end):
    return list(re.compile(expression).finditer(source, begin, end))


def locate(mutant, source):
    """The range of the source that the mutant replaces."""
    begin, end = 0, len(source)
    if mutant.anchor:
        anchors = occurrences(pattern(mutant.anchor), source, 0, end)
        if len(anchors) != 1:
            raise Mistake(f"{mutant.origin}: expected '{mutant.anchor}' once in {mutant.file}, got it "
                          f"{len(anchors)} times")
        begin = anchors[0].start()
        close = source.find("\n}", begin)
        end = close if close >= 0 else end
    marked = re.fullmatch(r"(.*?)\{\{(.*?)\}\}(?!\})(.*)", mutant.find)
    before, inside, after = marked.groups() if marked else ("", mutant.find, "")

    def glued(left, right):  # white space at the seam of two parts
        return r"\s+" if left[-1:].isspace() or right[:1].isspace() else ""

    expression = (pattern(before) + glued(before, inside) + "(" + pattern(inside) + ")" + glued(inside, after) +
                  pattern(after))
    found = occurrences(expression, source, begin, end)
    if len(found) != 1:
        where = f"after '{mutant.anchor}' in {mutant.file}" if mutant.anchor else f"in {mutant.file}"
        raise Mistake(f"{mutant.origin}: expected '{mutant.find}' once {where}, got it {len(found)} times")
    return found[0].span(1)


def render(source, begin, end, places):
    """source[begin:end] with the mutants of `places`, [((begin, end), [mutants])] in order, put in."""
    out, at = [], begin
    while places:
        (first, last), mutants = places[0]
        inner = [p for p in places[1:] if p[0][0] < last]
        for (inner_begin, inner_end), others in inner:
            if inner_end > last:
                raise Mistake(f"{others[0].origin}: expected mutants beside or within each other, got an overlap "
                              f"with {mutants[0].origin}")
        original = render(source, first, last, inner)
        out.append(source[at:first])
        if source[first:last].endswith(";"):
            chain = "".join(f"if (::dirigo::mutant({m.number})) {{ {m.replacement} }} else " for m in mutants)
            out.append(f"{chain}{{ {original} }}")
        else:
            chain = "".join(f"::dirigo::mutant({m.number}) ? ({m.replacement}) : " for m in mutants)
            out.append(f"({chain}({original}))")
        at = last
        places = places[1 + len(inner):]
    out.append(source[at:end])
    return "".join(out)


def mutate(source, mutants):
    places = {}
    for mutant in mutants:
        places.setdefault(locate(mutant, source), []).append(mutant)
    ordered = sorted(places.items(), key=lambda p: (p[0][0], -p[0][1]))
    return render(source, 0, len(source), ordered)


def includes_of(text):
    return re.findall(r'^#include "([^"]+)"', text, re.MULTILINE)


def files_to_compile(sources, mutated):
    """The .cpp files that are mutated or include, through however many headers, a mutated one."""
    def resolve(path, include):
        library = path.split("/")[0]
        for candidate in (str(pathlib.PurePosixPath(path).parent / include), f"{library}/src/{include}"):
            if candidate in sources:
                return candidate
        return None

    affected, grew = set(mutated), True
    while grew:
        grew = False
        for path, text in sources.items():
            if path not in affected and any(resolve(path, i) in affected for i in includes_of(text)):
                affected.add(path)
                grew = True
    return sorted(path for path in affected if path.endswith(".cpp"))


def write_if_changed(path, text):
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_copies(target, mutants):
    """Copies the src folders of the libraries with mutants to `target`; returns the files to compile there."""
    by_file = {}
    for mutant in mutants:
        if not re.fullmatch(r"\w+/src/.+", mutant.file):
            raise Mistake(f"{mutant.origin}: expected a file of a library's src folder, got {mutant.file}")
        by_file.setdefault(mutant.file, []).append(mutant)
    sources = {}
    for library in sorted({file.split("/")[0] for file in by_file}):
        for path in sorted((ROOT / library / "src").rglob("*.[ch]pp")):
            sources[str(path.relative_to(ROOT))] = path.read_text()
    for file in by_file:
        if file not in sources:
            raise Mistake(f"{by_file[file][0].origin}: expected an existing file, got {file}")
    for path, text in sources.items():
        write_if_changed(target / path, mutate(text, by_file[path]) if path in by_file else text)
    return files_to_compile(sources, by_file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=pathlib.Path, help="folder for the mutated sources")
    arguments = parser.parse_args()
    try:
        print(";".join(write_copies(arguments.target, read_lists())), end="")
    except Mistake as mistake:
        sys.exit(f"dirigo: mutants: {mistake}")


if __name__ == "__main__":
    main()
