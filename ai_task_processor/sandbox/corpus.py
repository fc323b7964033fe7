# ruff: noqa: RUF001 - texts in other scripts are the point of this file
"""The demo's tasks: 300 texts in ten languages, and three records that do not succeed.

Composition of ``demo_tasks()``, 303 records in this order:

- 300 texts in English, German, French, Spanish, Italian, Polish, Russian, Japanese, Chinese and
  Arabic, one to twelve sentences each. 288 are different, the last 12 repeat the first 12. Every
  ninth asks for ``text-embedding-3-large``. All 300 end ``succeeded``.
- among them, at places 50, 100 and 150: a task of the unknown type ``image_generation`` (stays
  pending), a record whose ``_id`` is null (stays pending), and a text that the model refuses (ends
  ``failed``).
"""

from typing import Any, Final

#: by language: subjects, predicates, times or reasons; any three make a sentence
_PARTS: Final[tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str], ...]] = (
    (
        ("The old lighthouse keeper", "A customer from Leeds", "Our night train", "The committee"),
        ("asked for a new certificate", "arrived two hours late", "lost the second key", "changed the recipe"),
        ("because of the storm.", "without telling anyone.", "on the first Monday of May."),
        " ",
    ),
    (
        ("Die Werkstatt am Hafen", "Unsere Buchhalterin", "Der letzte Zug nach Kiel", "Ein Gutachter"),
        ("prüft die Rechnung ein zweites Mal", "wartet auf Ersatzteile", "verlor den Schlüssel", "bat um Aufschub"),
        ("wegen des Sturms.", "ohne jemanden zu fragen.", "am ersten Montag im Mai."),
        " ",
    ),
    (
        ("La boulangère du quartier", "Le train de nuit", "Notre comptable", "Un témoin"),
        ("a demandé un certificat", "est arrivé avec deux heures de retard", "a égaré la clé", "a changé la recette"),
        ("à cause de l’orage.", "sans prévenir personne.", "le premier lundi de mai."),
        " ",
    ),
    (
        ("La bibliotecaria", "El último tren a Cádiz", "Nuestro perito", "Una clienta de Lugo"),
        ("pidió un certificado nuevo", "llegó con dos horas de retraso", "perdió la segunda llave", "cambió la receta"),
        ("por culpa de la tormenta.", "sin avisar a nadie.", "el primer lunes de mayo."),
        " ",
    ),
    (
        ("Il guardiano del faro", "Il treno notturno", "La nostra ragioniera", "Un cliente di Bari"),
        ("ha chiesto un certificato", "è arrivato in ritardo", "ha perso la seconda chiave", "ha cambiato la ricetta"),
        ("per via del temporale.", "senza avvisare nessuno.", "il primo lunedì di maggio."),
        " ",
    ),
    (
        ("Stary latarnik", "Nocny pociąg do Gdyni", "Nasz księgowy", "Klient z Łodzi"),
        ("poprosił o nowe zaświadczenie", "spóźnił się dwie godziny", "zgubił drugi klucz", "zmienił przepis"),
        ("z powodu burzy.", "nikomu nic nie mówiąc.", "w pierwszy poniedziałek maja."),
        " ",
    ),
    (
        ("Старый смотритель маяка", "Ночной поезд", "Наш бухгалтер", "Покупатель из Твери"),
        ("попросил новую справку", "опоздал на два часа", "потерял второй ключ", "изменил рецепт"),
        ("из-за грозы.", "никого не предупредив.", "в первый понедельник мая."),
        " ",
    ),
    (
        ("灯台の番人は", "夜行列車は", "うちの経理担当は", "仙台のお客様は"),
        ("嵐のために", "誰にも言わずに", "五月の最初の月曜日に", "二度目の点検のあとで"),
        ("新しい証明書を求めた。", "二時間遅れて着いた。", "予備の鍵をなくした。"),
        "",
    ),
    (
        ("老灯塔看守人", "夜班火车", "我们的会计", "一位来自杭州的顾客"),
        ("因为暴风雨", "没有通知任何人", "在五月的第一个星期一", "经过第二次检查"),
        ("申请了新的证书。", "晚到了两个小时。", "弄丢了备用钥匙。"),
        "",
    ),
    (
        ("حارس المنارة العجوز", "القطار الليلي", "محاسب الشركة", "زبون من طنجة"),
        ("طلب شهادة جديدة", "وصل متأخرا ساعتين", "أضاع المفتاح الثاني", "غيّر الوصفة"),
        ("بسبب العاصفة.", "دون أن يخبر أحدا.", "في أول يوم اثنين من مايو."),
        " ",
    ),
)
_SENTENCES: Final = (1, 1, 2, 3, 5, 8, 12)
_DIFFERENT: Final = 288
_TEXTS: Final = 300
REFUSED_TEXT: Final = "Please turn this sentence into numbers. [[refuse]]"


def text(n: int) -> str:
    """The ``n``-th text: adjacent ones differ in language and length; the first 480 begin differently."""
    subjects, deeds, reasons, space = _PARTS[n % len(_PARTS)]
    turn = n // len(_PARTS)
    sentences = (
        space.join((subjects[k % 4], deeds[(k // 4) % 4], reasons[(k // 16) % 3]))
        for k in range(turn, turn + _SENTENCES[n % len(_SENTENCES)])
    )
    return space.join(sentences)


def numbered_text(n: int) -> str:
    """The ``n``-th of any number of different texts."""
    return f"{text(n % _DIFFERENT)} ({n})"


def demo_tasks() -> list[dict[str, Any]]:
    """The arguments of ``tasks.add`` for each record; see the module."""
    tasks: list[dict[str, Any]] = [{"text": text(n % _DIFFERENT)} for n in range(_TEXTS)]
    for task in tasks[::9]:
        task["model"] = "text-embedding-3-large"
    tasks.insert(50, {"text": text(50), "type": "image_generation"})
    tasks.insert(100, {"text": text(100), "raw": {"_id": None}})
    tasks.insert(150, {"text": REFUSED_TEXT})
    return tasks
