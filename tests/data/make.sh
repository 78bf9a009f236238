#!/usr/bin/env bash
# Makes the pictures of this folder from examples/chelsea.jpg (public domain) with encoders that are not the ones we read
# them with. Debian: imagemagick webp apngasm libavif-bin libheif-examples libimage-exiftool-perl. Run it to renew them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
magick=$(command -v convert-im6.q16 || command -v convert)
"$magick" "$here/../../examples/chelsea.jpg" -strip -resize 64x -gravity center -crop 48x32+0+0 +repage 0.png
for i in 0 1 2 3; do # a red square moves to the right by 9 pixels a frame
    "$magick" 0.png -fill red -draw "rectangle $((4 + 9 * i)),10 $((11 + 9 * i)),17" "frame$i.png"
done

# frames of different sizes, transparent where nothing changes, and put back before the next: all must be composed
"$magick" -delay 12 -loop 2 frame[0-3].png +dither -colors 64 -layers OptimizePlus "$here/film.gif"
gif2webp -quiet "$here/film.gif" -o "$here/film.webp"
apngasm film.png frame0.png 12 100 -l3 >/dev/null && cp film.png "$here/"
"$magick" 0.png \( frame1.png -resize 50% \) -endian MSB -compress LZW "$here/pages.tif"

heif-enc -q 70 0.png -o "$here/still.heic" >/dev/null
avifenc --min 20 --max 30 0.png "$here/still.avif" >/dev/null

# 16 bits a channel with all of them used
"$magick" 0.png -resize 24x -depth 16 -blur 0x2 -strip rgb16.png && cp rgb16.png "$here/rgb16.png"
"$magick" rgb16.png -interlace PNG -depth 16 "$here/rgb16-interlaced.png"
for kind in None LZW; do "$magick" rgb16.png -depth 16 -compress $kind -endian MSB "$here/rgb16-${kind,,}.tif"; done
"$magick" rgb16.png -alpha set -channel A -fx 'i/w' -depth 16 "$here/rgba16.png"

# what a camera and a program for pictures write into a JPEG
"$magick" 0.png -rotate -90 -quality 80 meta.jpg && "$magick" 0.png -resize 12x -quality 40 thumb.jpg
exiftool -q -overwrite_original -n -Orientation=6 -Make=Camera -Model=One "-Artist=Zoë Müller" "-UserComment=hällo" \
    "-DateTimeOriginal=2020:01:02 03:04:05" -ExposureTime=0.005 -ExifImageWidth=32 -ExifImageHeight=48 -InteropIndex=R98 \
    -EXIF:GPSLatitude=52.5 -EXIF:GPSLatitudeRef=N -EXIF:GPSLongitude=13.4 -EXIF:GPSLongitudeRef=E "-ThumbnailImage<=thumb.jpg" \
    "-XMP-dc:Title=Kätzchen" -XMP-exif:GPSLatitude=52.5 -XMP-tiff:Orientation=6 -XMP-xmp:Rating=5 -XResolution=300 \
    -YResolution=300 -EXIF:ResolutionUnit=2 -JFIF:ResolutionUnit=1 meta.jpg
cp meta.jpg "$here/"
ls -l "$here"
