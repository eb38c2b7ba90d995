"""Paraphrases per relation."""

from __future__ import annotations

from kontext.data.caption.wording import Wording, lines, thing, value

WORDINGS: dict[str, Wording] = {
    "skin_tone": Wording(
        lines("""
            change the skin tone to {to}
            make the skin tone {to}
            give them {to} skin
            set the skin tone to {to}
            turn the skin {to}
            the skin tone should be {to}
        """),
        "{to} skin",
    ),
    "skin_color": Wording(
        lines("""
            change the skin to {to}
            make the skin {to}
            give them {to} skin
            set the skin color to {to}
            turn the skin {to}
            the skin should be {to}
        """),
        "{to} skin",
    ),
    "hair_color": Wording(
        lines("""
            dye the hair {to}
            make the hair {to}
            change the hair color to {to}
            give them {to} hair
            turn the hair {to}
            color the hair {to}
        """),
        "{to} hair",
    ),
    "hair_style": Wording(
        lines("""
            give them {hair}
            change the hair to {hair}
            they should have {hair}
            make it {hair}
            show them with {hair}
            switch to {hair}
        """),
        "{hair}",
    ),
    "clothing_color": Wording(
        lines("""
            change the clothes to {to}
            make the clothes {to}
            color the clothes {to}
            dress them in {to}
            turn the outfit {to}
            put them in {to} clothes
        """),
        "{to} clothes",
    ),
    "outfit": Wording(
        lines("""
            change the outfit to {to}
            dress them in {to}
            put them in {to}
            let them wear {to}
            swap the clothes for {to}
            make the outfit {to}
        """),
        "wear {to}",
    ),
    "glasses": thing(" glasses"),
    "accessory": thing(),
    "facial_hair": thing(),
    "object": Wording(
        lines("""
            replace the {from} with {a_to}
            change the {from} to {a_to}
            swap the {from} for {a_to}
            put {a_to} where the {from} is
            turn the {from} into {a_to}
            show {a_to} instead of the {from}
        """),
        "{a_to} instead",
        lines("""
            add {a_to}
            put {a_to} in front
            place {a_to} in the picture
            let there be {a_to}
            show {a_to} as well
            insert {a_to}
        """),
        lines("""
            remove the {from}
            take the {from} away
            get rid of the {from}
            delete the {from}
            no more {from}
            show the place without the {from}
        """),
        "add {a_to}",
        "remove {from}",
    ),
    "place": Wording(
        lines("""
            change the place from {from} to {to}
            move it all from {from} to {to}
            make the background {to}
            replace the background with {to}
            set the scene to {to}
            show it with {to} behind
        """),
        "background {to}",
    ),
    "eyes": value("eyes"),
    "mouth": value("mouth"),
    "expression": Wording(
        lines("""
            make them look {to}
            change the expression to {to}
            give them {a_to} face
            the face should look {to}
            show the same character {to}
            turn the expression into {to}
        """),
        "look {to}",
    ),
    "gender": Wording(
        lines("""
            make it {a_to}
            change the {from} to {a_to}
            turn them into {a_to}
            replace the {from} with {a_to}
            show {a_to} instead
            the {from} becomes {a_to}
        """),
        "{a_to}",
    ),
    "color": Wording(
        lines("""
            change the color to {to}
            make it {to}
            color it {to}
            turn the {from} one {to}
            recolor it from {from} to {to}
            paint it {to}
        """),
        "make it {to}",
    ),
    "background_color": Wording(
        lines("""
            change the background to {to}
            make the background {to}
            set {a_to} background
            put it on {a_to} background
            turn the background {to}
            paint the background {to}
        """),
        "{to} background",
    ),
    "day_night": Wording(
        lines("""
            change {from} to {to}
            make it {to}
            turn it into {to}
            show it {when}
            switch from {from} to {to}
            the same weather {when}
        """),
        "{when}",
    ),
    "time_of_day": Wording(
        lines("""
            make it {to}
            change the time to {to}
            show the scene {when}
            turn {from} into {to}
            the same landscape {when}
            relight the scene as {to}
        """),
        "{when}",
    ),
    "season": Wording(
        lines("""
            make the landscape {to}
            change the landscape to {to}
            turn it into {a_to} landscape
            give the hills {to} colors
            switch from {from} to {to}
            show the hills in {to} colors
        """),
        "{to}",
    ),
    "weather": Wording(
        lines("""
            change the {from} to {to}
            replace the {from} with {to}
            turn the {from} into {to}
            make it {to} instead of {from}
            swap {from} for {to}
            show {to} instead
        """),
        "{to}",
        add=lines("""
            add {to}
            make the weather {to}
            bring {to}
            add some {to} to the sky
            let there be {to}
            show it with {to}
        """),
        remove=lines("""
            remove the {from}
            stop the {from}
            clear away the {from}
            no more {from}
            take the {from} away
            show it without the {from}
        """),
        short_add="add {to}",
        short_remove="remove {from}",
    ),
    "text": Wording(
        lines("""
            replace '{from}' with '{to}'
            change the text to '{to}'
            make it read '{to}'
            change '{from}' to '{to}'
            write '{to}' instead of '{from}'
            make it say '{to}'
        """),
        "write '{to}'",
        verbatim=True,
    ),
    "art_style": Wording(
        lines("""
            redraw it in {to} style
            make it {to} style
            convert this to {to} style
            change the art style to {to}
            render it in {to} style
            restyle it as {to}
        """),
        "{to} style",
    ),
    "drawing": Wording(
        lines("""
            make it {a_to} drawing
            turn it into {a_to} drawing
            redraw it as {a_to} drawing
            change {from} to {to}
            convert this to {a_to} icon
            restyle it as {a_to} icon
        """),
        "{to} drawing",
    ),
    "clock": Wording(
        lines("""
            set the clock to {to}
            change the time to {to}
            move the hands to {to}
            make the clock show {to}
            turn the clock from {from} to {to}
            the clock should say {to}
        """),
        "show {to}",
    ),
    "direction": Wording(
        lines("""
            turn it to face {to}
            make it point {to}
            flip it from {from} to {to}
            rotate it to point {to}
            change the direction to {to}
            let it face {to}
        """),
        "face {to}",
    ),
    "state": Wording(
        lines("""
            make it {to}
            change it from {from} to {to}
            turn it {to}
            show it {to}
            it should be {to}
            switch it to {to}
        """),
        "make it {to}",
    ),
}

ALIASES = {
    "style": "art_style",
    "glyph": "text",
    "sign_text": "text",
    "line_fill": "drawing",
    "landscape_time": "time_of_day",
    "landscape_color": "season",
}
