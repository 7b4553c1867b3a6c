"""Short texts of several kinds, on which vocabularies are compared. Written for this purpose."""

# codespell and the line limit do not apply to the texts:
# ruff: noqa: E501
SAMPLE_TEXTS = {
    "English news": (
        "The city council voted on Tuesday to close the old bridge for eighteen months. Engineers found cracks in two of "
        "its four pillars last spring, and the repair will cost about 31 million dollars, a third more than planned. "
        "Buses will take the northern route; ferries run every twenty minutes from six in the morning. Shop owners near "
        "the river fear that customers will stay away, while cyclists welcome a new lane along the harbour."
    ),
    "English story": (
        "Mara woke before the others and carried the lantern down to the shore. The tide had left a line of shells, and "
        "between them a small glass bottle, green as the sea. She shook it. Something rattled inside: a key, no longer "
        "than her thumb. \"Whose are you?\" she whispered, and far out, where the fog began, a bell rang twice."
    ),
    "science": (
        "Chlorophyll absorbs photons mainly between 430 and 660 nm; the energy splits water and drives protons across "
        "the thylakoid membrane. The resulting gradient powers ATP synthase. In C4 plants, carbon dioxide is first "
        "fixed by phosphoenolpyruvate carboxylase in mesophyll cells, which reduces photorespiration at temperatures "
        "above 30 °C and saves water at the stomata."
    ),
    "mathematics": (
        r"Let $f:\mathbb{R}^n\to\mathbb{R}$ be convex and $L$-smooth. Gradient descent with step $\eta=1/L$ satisfies "
        r"\[ f(x_k)-f(x^\ast)\le\frac{L\,\lVert x_0-x^\ast\rVert^2}{2k}. \] \begin{proof} By smoothness, "
        r"$f(x_{k+1})\le f(x_k)-\frac{1}{2L}\lVert\nabla f(x_k)\rVert^2$; sum over $i=0,\dots,k-1$ and use "
        r"$\sum_{i}a_i\le k\max_i a_i$. \end{proof}"
    ),
    "Python": (
        "def merge(left: list[int], right: list[int]) -> list[int]:\n"
        "    \"\"\"Merges two sorted lists.\"\"\"\n"
        "    result, i, j = [], 0, 0\n"
        "    while i < len(left) and j < len(right):\n"
        "        if left[i] <= right[j]:\n"
        "            result.append(left[i])\n"
        "            i += 1\n"
        "        else:\n"
        "            result.append(right[j])\n"
        "            j += 1\n"
        "    return result + left[i:] + right[j:]\n"
    ),
    "JSON": (
        '{"order": 20481, "customer": {"name": "A. Moreau", "city": "Lyon"}, "items": [{"sku": "TX-118", "count": 3, '
        '"price": 12.5}, {"sku": "TX-204", "count": 1, "price": 89.0}], "paid": true, "notes": null, '
        '"created": "2025-04-17T08:31:02Z"}'
    ),
    "numbers": (
        "1234 + 5678 = 6912; 3.14159265, 2.71828183, 1.41421356; 2024-11-30 17:45:09; 10,000,000 / 256 = 39,062.5; "
        "192.168.0.17; 0x7fff; 6.022e23; 45%, 7/8, 1999, 2000, 2001, 86400"
    ),
    "German": (
        "Der Zug nach Regensburg hatte wegen einer Weichenstörung vierzig Minuten Verspätung. Auf dem Bahnsteig "
        "verglichen die Reisenden ihre Anschlussverbindungen, während eine Lautsprecherdurchsage um Geduld bat. "
        "Eine Großmutter öffnete ihre Brotdose und verteilte Apfelschnitze an die Kinder."
    ),
    "French": (
        "À l'aube, le boulanger ouvrait déjà ses volets bleus. L'odeur des pains dorés descendait la rue jusqu'au "
        "fleuve, où les pêcheurs réparaient leurs filets. Personne ne se pressait : c'était dimanche, et même "
        "l'horloge de l'église semblait hésiter avant de sonner sept heures."
    ),
    "Russian": (
        "Вечером пошёл дождь, и улицы быстро опустели. В маленьком кафе на углу горел тёплый свет; хозяйка "
        "расставляла чашки и слушала старую пластинку. За окном проехал трамвай, оставив на мокрых рельсах длинную "
        "полосу огней."
    ),
    "Chinese": (
        "清晨的市场已经热闹起来。卖菜的老人把新鲜的白菜和萝卜摆成一排，旁边的年轻人正在煎葱油饼。"
        "雨刚停，石板路上还有水，孩子们绕着水洼跑去上学。远处传来火车的汽笛声。"
    ),
    "Korean": (
        "아침 안개가 걷히자 산 아래 마을이 천천히 모습을 드러냈다. 할머니는 마당에 고추를 널고, 아이들은 자전거를 타고 "
        "강가로 달려갔다. 오늘은 장이 서는 날이라 버스 정류장이 평소보다 붐볐다."
    ),
    "Hindi": (
        "सुबह की पहली बस में केवल चार यात्री थे। खिड़की के बाहर खेतों पर हल्का कोहरा था और दूर पहाड़ियों के पीछे सूरज "
        "निकल रहा था। चालक ने रेडियो पर एक पुराना गीत लगाया और सब चुपचाप सुनते रहे।"
    ),
}  # fmt: skip
"""Kind of text → text."""
