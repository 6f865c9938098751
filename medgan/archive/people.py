"""Fictitious people for phantoms: names in eleven scripts and character sets, ids, places, telephones.

Nobody here exists. Names are drawn from common given and family names so that they look real to
whatever looks for names; every patient of a seed has a name, an id, an address and a telephone
number of their own.
"""
# ruff: noqa: RUF001 - names in eleven scripts look alike on purpose

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A way to write names: SpecificCharacterSet, Python codec, ISO 2022 escape, and the names themselves.

    Each name is its groups joined by `=` (alphabetic, ideographic, phonetic), as in a PN value.
    """

    character_set: str
    codec: str
    escape: bytes = b""
    families: tuple[str, ...]
    givens: tuple[str, ...]

    def encode(self, text: str) -> bytes:
        """Bytes of a text or PN value; ISO 2022 returns to ASCII before each delimiter (PS3.5 6.1.2.5.3)."""
        if not self.escape and self.codec != "iso2022_jp":
            return text.encode(self.codec)
        out = []
        for piece in _split_keeping(text, "^=\\ "):
            raw = piece.encode(self.codec)
            out.append(self.escape + raw if self.escape and not piece.isascii() else raw)
        return b"".join(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One fictitious patient."""

    number: int
    script: Script
    name: str
    patient_id: str
    issuer: str
    other_id: str
    sex: str
    age: int
    birth_date: dt.date
    study_time: dt.datetime
    address: str
    telephone: str
    mother: str
    referring: str
    operator: str

    @property
    def spoken(self) -> str:
        """Given and family name as in free text, without ideographs."""
        family, given, *_ = self.name.partition("=")[0].split("^")
        return f"{given} {family}"

    @property
    def folder(self) -> str:
        """What a workstation calls the patient's folder."""
        family, given, *_ = self.name.partition("=")[0].split("^")
        return f"{family}_{given}_{self.birth_date:%Y-%m-%d}_{self.patient_id}"


def _split_keeping(text: str, delimiters: str) -> list[str]:
    pieces, current = [], ""
    for character in text:
        if character in delimiters:
            pieces += [current, character]
            current = ""
        else:
            current += character
    return [piece for piece in [*pieces, current] if piece]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SCRIPTS: Final = (
    Script(
        character_set="",
        codec="ascii",
        families=_words(
            "Abernathy Blackwood Carmichael Donnelly Ellsworth Fairbanks Galloway Hathaway Ingleside Jamieson "
            "Kirkpatrick Lockhart Macallister Northcott Ormsby Penhaligon Quillfeather Ravenscroft Somerville "
            "Thistlewood Underhill Vandermeer Whitcombe Yarborough",
        ),
        givens=_words(
            "Adelaide Barnaby Cordelia Dominic Eleanor Frederick Genevieve Humphrey Isabella Jeremiah Katherine "
            "Leopold Marguerite Nathaniel Octavia Percival Rosalind Sebastian Theodora Valentine Winifred Zachary "
            "Josephine Maximilian",
        ),
    ),
    Script(
        character_set="ISO_IR 100",
        codec="iso8859_1",
        families=_words(
            "Müller Schäfer Größmann Köhler Weißbach Jürgensen Håkansson Sørensen Bjørnstad Åkerlund Lefèvre "
            "Bérenger Fournière Chrétien Muñoz Ibáñez Gutiérrez Peñalosa Magalhães Conceição Gonçalves Strömberg "
            "Hämäläinen Böttcher",
        ),
        givens=_words(
            "Jörg-Peter Bärbel Günther Käthe Søren-Emil Åse-Marie Gisèle Françoise Jérôme Anaïs Benoît Hélène "
            "María-José Iñigo Begoña Sebastián João-Pedro Inês-Sofia Mårten Päivikki Rüdiger Ursüla Zoë-Louise Noël",
        ),
    ),
    Script(
        character_set="ISO_IR 101",
        codec="iso8859_2",
        families=_words(
            "Wójcik Dąbrowski Kozłowska Szymańska Woźniak Krawczyński Łukaszewicz Świątek Dvořák Procházka Růžička "
            "Kučera Horváthová Kováčik Ševčík Žižka Szabó-Kiss Tóthné Ionešcu Marković Đorđević Šimunović Kovačić "
            "Żółtowska",
        ),
        givens=_words(
            "Małgorzata Wojciech Stanisław Agnieszka Zbigniew Katarzyna Bogusława Grażyna Jiřina Zdeněk Božena "
            "Ľudmila Matúšek László Erzsébet Győző Stefánia Željko Snježana Krešimir Živorad Aleš-Marko Přemysl "
            "Břetislav",
        ),
    ),
    Script(
        character_set="ISO_IR 144",
        codec="iso8859_5",
        families=_words(
            "Кузнецова Васильев Петровский Смирнова Соколов Лебедева Новиков Морозова Волков Зайцева Павлов "
            "Семёнова Голубев Виноградова Богданов Воробьёва Фёдоров Михайлова Беляев Тарасова Белов Комарова "
            "Орлов Киселёва",
        ),
        givens=_words(
            "Александр Екатерина Дмитрий Анастасия Сергей Наталья Михаил Светлана Владимир Татьяна Николай Людмила "
            "Алексей Валентина Евгений Галина Константин Ирина Вячеслав Надежда Станислав Вера-Мария Григорий Юлия",
        ),
    ),
    Script(
        character_set="ISO_IR 126",
        codec="iso8859_7",
        families=_words(
            "Παπαδόπουλος Γεωργίου Δημητρίου Νικολαΐδης Κωνσταντίνου Αθανασίου Οικονόμου Βασιλείου Αντωνίου "
            "Χριστοδούλου Παππάς Καραμανλής Μακρής Αλεξίου Σταματίου Θεοδώρου Καλογεράς Λαμπρόπουλος Μιχαηλίδης "
            "Πετρίδης Σωτηρίου Τσακίρης Φιλίππου Ζαχαρίου",
        ),
        givens=_words(
            "Διονύσιος Ελευθερία Γεώργιος Αικατερίνη Κωνσταντίνος Βασιλική Παναγιώτης Δήμητρα Ευάγγελος Ειρήνη "
            "Νικόλαος Αναστασία Ιωάννης Χρυσούλα Σπυρίδων Παρασκευή Θεόδωρος Γεωργία Χαράλαμπος Σοφία-Άννα "
            "Στυλιανός Μαργαρίτα Αριστείδης Καλλιόπη",
        ),
    ),
    Script(
        character_set="ISO_IR 138",
        codec="iso8859_8",
        families=_words(
            "שרונסקי לייבוביץ גולדשטיין פרידמן רוזנברג קפלינסקי שפירא ויינשטיין ברקוביץ אברמוביץ הורוביץ זילברמן "
            "מזרחי אוחיון ביטוןלוי אזולאי פרץכהן דהןגבאי מלכהשרון חדדאור עמראני אלקיים סויסה טולדנו",
        ),
        givens=_words(
            "דבורהלאה יהונתן אברהם שושנה מרדכי רבקהחנה יצחקאל אסתרמלכה בנימין מרייםרות שמואל יהודית אליעזר נעמישרה "
            "גבריאל אביגיל רפאלדן תמרהדס נתנאל אלישבע עמנואל מיכללי שלמהארי טובהגילה",
        ),
    ),
    Script(
        character_set="ISO_IR 127",
        codec="iso8859_6",
        families=_words(
            "القباني الحسيني المصري العثماني الشافعي البغدادي الدمشقي الحلبي الطرابلسي القرطبي الأندلسي المغربي "
            "التونسي الجزائري السوداني اليمني العماني الكويتي الفلسطيني اللبناني الأردني العراقي الشامي النجدي",
        ),
        givens=_words(
            "عبدالرحمن فاطمة-الزهراء عبدالله خديجة محمد-علي عائشة إبراهيم زينب-نور يوسف-كمال مريم-هدى مصطفى سعاد-أمل "
            "عبدالعزيز نجلاء خالد-وليد ياسمين إسماعيل رقية-سلمى عثمان بثينة حمزة-طارق سميرة عبدالكريم جميلة",
        ),
    ),
    Script(
        character_set="\\ISO 2022 IR 87",
        codec="iso2022_jp",
        families=_words(
            "Yamada=山田=やまだ Takahashi=高橋=たかはし Watanabe=渡辺=わたなべ Kobayashi=小林=こばやし "
            "Yoshida=吉田=よしだ Matsumoto=松本=まつもと Yamaguchi=山口=やまぐち Shimizu=清水=しみず "
            "Hayashi=林田=はやしだ Saitou=斎藤=さいとう Nakajima=中島=なかじま Fujiwara=藤原=ふじわら "
            "Okamoto=岡本=おかもと Hasegawa=長谷川=はせがわ Murakami=村上=むらかみ Ishikawa=石川=いしかわ "
            "Maeda=前田=まえだ Ogawa=小川=おがわ Nishimura=西村=にしむら Fukuda=福田=ふくだ "
            "Miyazaki=宮崎=みやざき Sakamoto=坂本=さかもと Aoki=青木=あおき Endou=遠藤=えんどう",
        ),
        givens=_words(
            "Tarou=太郎=たろう Hanako=花子=はなこ Ichirou=一郎=いちろう Sakura=桜子=さくらこ Kenji=健二=けんじ "
            "Yumiko=由美子=ゆみこ Takashi=貴志=たかし Misaki=美咲=みさき Daisuke=大輔=だいすけ Haruka=春香=はるか "
            "Shouta=翔太=しょうた Ayaka=彩香=あやか Kazuya=和也=かずや Natsumi=夏美=なつみ Makoto=誠人=まこと "
            "Megumi=恵美=めぐみ Hiroshi=浩志=ひろし Tomoko=智子=ともこ Naoki=直樹=なおき Akane=明音=あかね "
            "Ryouhei=良平=りょうへい Mayumi=真由美=まゆみ Yuuta=勇太=ゆうた Kaori=香織=かおり",
        ),
    ),
    Script(
        character_set="\\ISO 2022 IR 149",
        codec="euc_kr",
        escape=b"\x1b$)C",
        families=_words(
            "Kim=김 Yi=이 Pak=박 Choe=최 Chong=정 Kang=강 Cho=조 Yun=윤 Chang=장 Im=임 Han=한 O=오 So=서 Sin=신 "
            "Kwon=권 Hwang=황 An=안 Song=송 Yu=유 Hong=홍 Chon=전 Ko=고 Mun=문 Yang=양",
        ),
        givens=_words(
            "Gildong=길동 Minjun=민준 Soyeon=소연 Jihoon=지훈 Seoyun=서윤 Dohyun=도현 Haeun=하은 Junseo=준서 "
            "Jiwoo=지우 Yejun=예준 Subin=수빈 Hyunwoo=현우 Chaewon=채원 Seungmin=승민 Dahyun=다현 Jaewon=재원 "
            "Yuna=유나 Taeyang=태양 Eunji=은지 Sanghoon=상훈 Bora=보라 Kyungsoo=경수 Nari=나리 Woojin=우진",
        ),
    ),
    Script(
        character_set="GB18030",
        codec="gb18030",
        families=_words(
            "Wang=王 Zhang=张 Liu=刘 Chen=陈 Yang=杨 Zhao=赵 Huang=黄 Zhou=周 Wu=吴 Xu=徐 Sun=孙 Ma=马 Zhu=朱 Hu=胡 "
            "Guo=郭 He=何 Lin=林 Gao=高 Luo=罗 Zheng=郑 Liang=梁 Xie=谢 Song=宋 Tang=唐",
        ),
        givens=_words(
            "Xiaodong=小东 Meiling=美玲 Jianguo=建国 Xiuying=秀英 Zhiqiang=志强 Lihua=丽华 Guangming=光明 "
            "Fangfang=芳芳 Haitao=海涛 Yanling=艳玲 Wenbin=文斌 Shuzhen=淑珍 Yongjun=永军 Guiying=桂英 Weidong=卫东 "
            "Xuemei=雪梅 Tianyu=天宇 Jingyi=静怡 Haoran=浩然 Ruoxi=若曦 Zixuan=子轩 Yutong=雨桐 Mingzhe=明哲 "
            "Siyuan=思远",
        ),
    ),
    Script(
        character_set="ISO_IR 192",
        codec="utf-8",
        families=_words(
            "Nguyễn-Phúc Trần-Đình Lê-Hoàng Phạm-Thị Þorvaldsdóttir Guðmundsson Özdemiroğlu Yıldırım Şahinbaş "
            "Kılıçdar Ōnishi-Brown Māhealani ʻAkahilani Ñandutí Sjöström-Łęcki Дзержинська Шевченківна Αργυρού-Smith "
            "ठाकुरदास चट्टोपाध्याय சுப்பிரமணியம் กิตติพงษ์ ბერიძეშვილი Հովհաննիսյան",
        ),
        givens=_words(
            "Thị-Minh Đức-Anh Quỳnh-Như Bảo-Châu Ásgerður Þórhallur Gülşah Çağatay İbrahim-Can Tuğçe-Nur Keanu-Lōkahi "
            "Nālani Ximena-Ñusta Bogumił Соломія Ярослава Ευδοκία आनन्दिता राजेन्द्रन மீனாட்சி สมชาย-ดี ნინო-ელენე "
            "Անահիտ-Մարի Zoë-Øyvind",
        ),
    ),
)

_STREETS: Final = _words(
    "Ravenscourt Eldermoor Thornwick Glasshouse Willowbrook Cinderford Marlowe Hawksmoor Birchfield Saltmarsh "
    "Nightingale Copperbeech",
)
_TOWNS: Final = _words("Nowhereham Fictonbury Imaginster Unseenport Phantomsey Mirageford Utopolis Atlantborough")
_STAFF: Final = (
    "Quackenbush^Ambrose^^Dr",
    "Featherstonehaugh^Millicent^^Dr",
    "Okonkwo-Lindqvist^Ngozi^^Prof",
    "Zwingenberger^Theobald^^Dr",
    "Castellanos-Byrne^Imelda^^Dr",
    "Papenfuss^Hildegard",
    "Drinkwater^Barnabas",
    "Vanderbilt-Osei^Kwabena",
)
ISSUERS: Final = ("NOWHEREHAM-GENERAL", "FICTONBURY-CHILDREN")
_FIRST_STUDY: Final = dt.datetime(2015, 1, 5, 7, 0, 0)  # noqa: DTZ001 - DICOM times have no zone
_STUDY_DAYS: Final = 3200
_CHECK_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ"


@lru_cache(maxsize=64)
def _order(seed: int, script: int, count: int) -> tuple[int, ...]:
    """A seeded order of all combinations, so that no two patients of a seed share a name."""
    order = list(range(count))
    random.Random(f"{seed}/{script}").shuffle(order)  # noqa: S311 - nothing here is secret
    return tuple(order)


def _join(*parts: str) -> str:
    """Family, given and middle name as a PN value, group by group."""
    groups = zip(*(part.split("=") for part in parts), strict=True)
    return "=".join("^".join(group) for group in groups)


def _name(number: int, seed: int) -> tuple[Script, str]:
    script_number = number % len(SCRIPTS)
    script = SCRIPTS[script_number]
    pairs = len(script.families) * len(script.givens)
    round_, place = divmod(number // len(SCRIPTS), pairs)
    family, given = divmod(_order(seed, script_number, pairs)[place], len(script.givens))
    parts = [script.families[family], script.givens[given]]
    if round_:
        parts.append(script.givens[(given + round_) % len(script.givens)])
    return script, _join(*parts)


def person(number: int, *, seed: int = 7) -> Person:
    """The `number`-th fictitious patient of a seed; always the same one."""
    draw = random.Random(f"{seed}/person/{number}")  # noqa: S311 - nothing here is secret
    script, name = _name(number, seed)
    age = draw.randint(1, 17)
    micro = dt.timedelta(microseconds=number % 1_000_000)
    when = _FIRST_STUDY + dt.timedelta(days=draw.randrange(_STUDY_DAYS), seconds=draw.randrange(12 * 3600)) + micro
    born = when.date() - dt.timedelta(days=age * 365.25 + draw.randrange(1, 360))
    serial = f"{number:06d}"
    letter = draw.choice(_CHECK_LETTERS)
    return Person(
        number=number,
        script=script,
        name=name,
        patient_id=f"{'NG' if number % 2 else 'FC'}{draw.randrange(10, 99)}-{serial}-{letter}",
        issuer=ISSUERS[0 if number % 2 else 1],
        other_id=f"SSN-900-{draw.randrange(10, 99)}-{serial}",
        sex=draw.choice("MF"),
        age=age,
        birth_date=born,
        study_time=when,
        address=f"{number + 1} {draw.choice(_STREETS)} Lane, {draw.choice(_TOWNS)}",
        telephone=f"+99 555 {draw.randrange(1000, 9999)} {serial}",
        mother=f"Mother-{draw.choice(_STREETS)}-{serial}",
        referring=draw.choice(_STAFF[:5]),
        operator=draw.choice(_STAFF[5:]),
    )
