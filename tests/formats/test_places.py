"""`--strip gps` is a promise about privacy: no place is found in what it wrote, wherever the input said one."""

from __future__ import annotations

import io
import re
import struct
import zlib

import pytest
from PIL import Image
from small import brightness_model

from cutout.enums import Strip
from cutout.formats.decode import decode
from cutout.formats.metadata import Metadata, exif, xmp
from cutout.formats.metadata.exif import Exif, Tag
from cutout.formats.metadata.places import is_place, without_places
from cutout.formats.picture import ONLY_FIRST
from cutout.formats.pillow import register_heif
from cutout.formats.png import chunk
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.convert import convert
from cutout.pipeline.remover import Remover
from cutout.timing import StageTimes

PLACE = "Xanadu"
"""Every place of these pictures bears this name; so does their second page."""
KEPT = "Zoe wrote this"

ELEMENTS = """
<photoshop:City>Xanadu</photoshop:City>
<photoshop:State>Xanadu</photoshop:State>
<photoshop:Country>Xanadu</photoshop:Country>
<Iptc4xmpCore:Location>Xanadu</Iptc4xmpCore:Location>
<Iptc4xmpCore:CountryCode>Xanadu</Iptc4xmpCore:CountryCode>
<Iptc4xmpCore:CreatorContactInfo rdf:parseType="Resource"><Iptc4xmpCore:CiAdrCity>Xanadu</Iptc4xmpCore:CiAdrCity>
  <Iptc4xmpCore:CiAdrExtadr>1 Xanadu Street</Iptc4xmpCore:CiAdrExtadr></Iptc4xmpCore:CreatorContactInfo>
<Iptc4xmpExt:LocationCreated><rdf:Bag><rdf:li rdf:parseType="Resource"><Iptc4xmpExt:City>Xanadu</Iptc4xmpExt:City>
  <Iptc4xmpExt:LocationName><rdf:Alt><rdf:li xml:lang="x-default">Xanadu</rdf:li></rdf:Alt></Iptc4xmpExt:LocationName>
  </rdf:li></rdf:Bag></Iptc4xmpExt:LocationCreated>
<Iptc4xmpExt:LocationShown><rdf:Bag><rdf:li><rdf:Description Iptc4xmpExt:WorldRegion="Xanadu"
  Iptc4xmpExt:Sublocation='Xanadu > here'/></rdf:li></rdf:Bag></Iptc4xmpExt:LocationShown>
<exif:GPSLatitude>1,2.3Xanadu</exif:GPSLatitude>
<exif:GPSAreaInformation>Xanadu</exif:GPSAreaInformation>
<xmpMM:Pantry><rdf:Bag><rdf:li><rdf:Description><ps:City xmlns:ps="http://ns.adobe.com/photoshop/1.0/">Xanadu</ps:City>
  </rdf:Description></rdf:li></rdf:Bag></xmpMM:Pantry>
<dc:coverage>Xanadu</dc:coverage>
<drone:AbsoluteAltitude xmlns:drone="http://www.dji.com/drone-dji/1.0/">+12.Xanadu</drone:AbsoluteAltitude>
<drone:GpsLongtitude xmlns:drone="http://www.dji.com/drone-dji/1.0/">Xanadu</drone:GpsLongtitude>
<g:lat xmlns:g="http://www.w3.org/2003/01/geo/wgs84_pos#">Xanadu</g:lat>
<cell:CellID xmlns:cell="http://developer.sonyericsson.com/cell/1.0/">Xanadu</cell:CellID>
<dwc:verbatimLocality xmlns:dwc="http://rs.tdwg.org/dwc/index.htm">Xanadu</dwc:verbatimLocality>
<prism:location xmlns:prism="http://prismstandard.org/namespaces/basic/2.0/">Xanadu</prism:location>
<xmpDM:shotLocation xmlns:xmpDM="http://ns.adobe.com/xmp/1.0/DynamicMedia/">Xanadu</xmpDM:shotLocation>
<unheard:HomeTownCity xmlns:unheard="urn:nobody:knows">Xanadu</unheard:HomeTownCity>
<GCamera:hdrp_makernote xmlns:GCamera="http://ns.google.com/photos/1.0/camera/">Xanadu</GCamera:hdrp_makernote>
<GImage:Data xmlns:GImage="http://ns.google.com/photos/1.0/image/">Xanadu</GImage:Data>
<photoshop:City
 >Xanadu</photoshop:City
>
<photoshop:City><![CDATA[Xanadu]]></photoshop:City>
<!-- Xanadu --><?maps Xanadu?>
"""
ATTRIBUTES = """
photoshop:City="Xanadu" photoshop:State='Xanadu' other:City="Xanadu > 2" photoshop:Country = "Xanadu"
Iptc4xmpCore:Location="Xanadu" Iptc4xmpCore:CountryCode="Xanadu" exif:GPSLongitude="Xanadu" City="Xanadu"
"""
PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 xmlns:other="http://ns.adobe.com/photoshop/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:Iptc4xmpCore="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<rdf:Description rdf:about="" {ATTRIBUTES.replace("other:City", "other:Region-City")}>{ELEMENTS}
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{KEPT}</rdf:li></rdf:Alt></dc:title></rdf:Description>
</rdf:RDF></x:xmpmeta><?xpacket end="w"?>""".encode()


def record(number: int, text: bytes, *, of: int = 2, long: bool = False) -> bytes:
    """One IPTC-IIM data set."""
    length = struct.pack(">HI", 0x8004, len(text)) if long else struct.pack(">H", len(text))
    return struct.pack(">BBB", 0x1C, of, number) + length + text


NAMED = (26, 27, 90, 92, 95, 100, 101)
IPTC = b"".join(
    (
        record(90, b"\x1b%G", of=1),
        *(record(number, PLACE.encode()) for number in NAMED),
        record(90, PLACE.encode(), long=True),
        record(202, b"JFIF of " + PLACE.encode()),
        record(1, PLACE.encode(), of=240),
        record(80, KEPT.encode()),
    )
)


def ascii_entry(text: str) -> Tag:
    return Tag(2, len(text) + 1, text.encode() + b"\0")


COORDINATE = Tag(5, 3, struct.pack("<6I", 51, 1, 30, 1, 0x6E6158, 0x756461))  # its seconds spell the place
BLOCK = Exif(
    main={0x013B: ascii_entry(KEPT), 0x83BB: Tag(7, len(IPTC), IPTC), 0xC4A5: Tag(7, 6, PLACE.encode())},
    exif={
        0x829A: Tag(5, 1, struct.pack("<II", 1, 200)),
        0x927C: Tag(7, 30, b"Maker\0" + PLACE.encode() * 4),
        0x83BB: Tag(7, len(IPTC), IPTC),
        0x0002: COORDINATE._replace(kind=7, number=24),
        0xEA1C: Tag(7, 6, PLACE.encode()),
    },
    gps={1: Tag(2, 2, b"N\0"), 2: COORDINATE, 28: Tag(7, 14, b"ASCII\0\0\0" + PLACE.encode())},
    interop={1: Tag(2, 4, b"R98\0"), 2: COORDINATE._replace(kind=7, number=24)},
)
FORMATS = tuple(OutputFormat)


def picture() -> Image.Image:
    image = Image.new("RGB", (48, 32), "black")
    image.paste("white", (24, 0, 48, 32))
    return image


def saved(kind: str, **told: object) -> bytes:
    file = io.BytesIO()
    picture().save(file, kind, **told)
    return file.getvalue()


def segment(content: bytes, marker: int = 0xE1) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def a_jpeg() -> bytes:
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
    extended = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + struct.pack(">II", len(PACKET), 0) + PACKET
    plain = saved("JPEG", exif=b"Exif\0\0" + exif.build(BLOCK), xmp=PACKET, comment=PLACE.encode())
    return plain[:2] + segment(resource, 0xED) + segment(extended) + plain[2:]


def insert(png: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The same with further chunks behind its header."""
    return b"".join((png[:33], *(chunk(name, data) for name, data in chunks), png[33:]))


def a_png() -> bytes:
    lines = IPTC.hex()
    raw = f"\niptc\n{len(IPTC):8}\n{lines}\n".encode()
    texts = [
        (b"eXIf", exif.build(BLOCK)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PACKET),
        (b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(raw)),
        (b"tEXt", b"Location\0" + PLACE.encode()),
        (b"iTXt", b"Location\0\x01\0\0\0" + zlib.compress(PLACE.encode())),
    ]
    return insert(saved("PNG"), texts)


def a_tiff(pages: int = 1) -> bytes:
    import numpy as np

    from cutout.formats.tiff import Tiff

    made = Tiff()
    pixels, metadata = np.asarray(picture()), Metadata(exif=exif.build(BLOCK), xmp=PACKET)
    for _ in range(pages):
        made.add(pixels.shape, pixels.dtype, lambda top, bottom: pixels[top:bottom], metadata, colors=True)
    return made.finish()


def another_tiff() -> bytes:
    """With Photoshop's resources beside the records, and texts of a page that are not kept."""
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
    tags: dict[int, object] = {0x013B: KEPT, 0x02BC: PACKET, 0x83BB: IPTC, 0x8649: resource, 0x011D: PLACE}
    return saved("TIFF", tiffinfo=tags)


def an_apng() -> bytes:
    first, second = picture(), picture().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    second.putpixel((0, 0), (9, 9, 9))
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True, append_images=[second])
    return insert(file.getvalue(), [(b"eXIf", exif.build(BLOCK)), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PACKET)])


def a_heic() -> bytes:
    register_heif("a test")
    return saved("HEIF", exif=b"Exif\0\0" + exif.build(BLOCK), xmp=PACKET)


INPUTS = {
    "jpeg": a_jpeg,
    "png": a_png,
    "apng": an_apng,
    "tiff": a_tiff,
    "tiff of Pillow": another_tiff,
    "pages": lambda: a_tiff(2),
    "webp": lambda: saved("WEBP", exif=exif.build(BLOCK), xmp=PACKET),
    "avif": lambda: saved("AVIF", exif=exif.build(BLOCK), xmp=PACKET),
    "heic": a_heic,
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Remover:
    return Remover(brightness_model(tmp_path_factory.mktemp("model")), device="cpu")


def places_in(data: bytes) -> list[bytes]:
    """Where the place is named in a file, in any of the ways in which text is written, or unseen in a PNG's chunk."""
    texts = [data]
    for start in re.finditer(b"\x78[\x01\x5e\x9c\xda]", data):
        try:
            texts.append(zlib.decompressobj().decompress(data[start.start() :], 1 << 20))
        except zlib.error:
            continue
    names = [PLACE.encode(coding) for coding in ("utf-8", "utf-16-le", "utf-16-be")] + [PLACE.encode().hex().encode()]
    names.append(COORDINATE.data[-8:])
    return [text[max(0, text.index(name) - 60) :][:99] for text in texts for name in names if name in text]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("source", INPUTS)
def test_no_place_is_found_in_any_format_from_any_input(source: str, kind: OutputFormat, quick: Remover) -> None:
    data = INPUTS[source]()
    assert places_in(data), "the test itself"
    for options in (RemoveOptions(), RemoveOptions(mask=True), RemoveOptions(background="white")):
        made = convert(data, kind, quick, options, Encoding(strip=Strip.GPS), StageTimes())
        assert places_in(made.encoded) == []
        assert KEPT.encode() in made.encoded, "the author stays"
        assert [text for text in made.warnings if not text.startswith(ONLY_FIRST)] == []


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_pictures_keep_their_places_where_nobody_asks(kind: OutputFormat, quick: Remover) -> None:
    """So the search of the test above finds what is there."""
    made = convert(a_jpeg(), kind, quick, RemoveOptions(), Encoding(), StageTimes())
    assert places_in(made.encoded)


def test_what_is_no_place_stays_byte_for_byte() -> None:
    stripped, notes = decode(a_jpeg()).metadata.stripped(Strip.GPS)
    assert notes == ()
    assert stripped.exif is not None
    assert stripped.xmp is not None
    found = exif.parse(stripped.exif)
    assert found.exif == {0x829A: BLOCK.exif[0x829A]}
    assert found.main[0x83BB].data == record(90, b"\x1b%G", of=1) + record(80, KEPT.encode())
    assert found.interop == {1: BLOCK.interop[1]}
    assert xmp.strip(stripped.xmp, place=False) == stripped.xmp
    assert KEPT in stripped.xmp.decode()


@pytest.mark.parametrize(
    "records",
    [
        b"8BIM\x04\x04" + IPTC,  # a wrapper that is not looked into
        record(90, b"Xanadu")[:-2],
        record(80, b"Zoe") + b"Xanadu",
        record(90, b"Xanadu", long=True)[:7],
        struct.pack(">BBBH", 0x1C, 2, 90, 0x8100) + bytes(0x100) + b"Xanadu",
        b"\x1c\x02\x5a",
    ],
)
def test_records_that_cannot_be_read_are_left_out_and_said_so(records: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut short|something else"):
        without_places(records)
    block = exif.build(Exif(main={0x013B: ascii_entry(KEPT), 0x83BB: Tag(7, len(records), records)}))
    stripped, notes = Metadata(exif=block).stripped(Strip.GPS)
    assert stripped.exif is not None
    assert PLACE.encode() not in stripped.exif
    assert KEPT.encode() in stripped.exif
    assert len(notes) == 1
    assert notes[0].startswith("the IPTC records may hold a place and were left out: ")


def test_a_packet_whose_places_cannot_be_cut_out_is_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the search must not keep a place: what is left is read once more."""
    parse = xmp._Finder.parse

    def forgets(finder: xmp._Finder) -> None:
        parse(finder)
        del finder.cuts[-3:]

    monkeypatch.setattr(xmp._Finder, "parse", forgets)
    stripped, notes = Metadata(xmp=PACKET + b"\n").stripped(Strip.GPS)
    assert stripped.xmp is None
    assert notes == ("the XMP packet may hold a place and was left out: places could not be taken out of it",)


@pytest.mark.parametrize(
    "name",
    [
        "Opacity",
        "Velocity",
        "placedXResolution",
        "CreatorTool",
        "Alt",
        "li",
        "State2",
        "GeometricDistortionX",
        "Regions",
        "RegionList",
        "title",
        "CiEmailWork",
        "LicensorEmail",
        "hierarchicalSubject",
        "Headline",
        "CropTop",
        "FocalLength",
        "SceneCaptureType",
        "LensModel",
    ],
)
def test_what_only_looks_like_a_place_stays(name: str) -> None:
    assert not is_place("http://ns.adobe.com/anything/1.0/", name)
