"""Templates: what is read, what is refused, and with what advice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter_mw.model import MeterError
from meter_mw.policy.templates import Kind, Parameter, Template, TemplateError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/", "/"),
        ("/health", "/health"),
        ("/health/", "/health"),
        ("/items/{id}", "/items/{id}"),
        ("/items/{id:str}", "/items/{id}"),
        ("/items/<id>", "/items/{id}"),
        ("/items/<string:id>", "/items/{id}"),
        ("/items/<default:id>", "/items/{id}"),
        ("/items/<str:id>/", "/items/{id}"),
        ("/items/{id:int}", "/items/{id:int}"),
        ("/items/<int:id>", "/items/{id:int}"),
        ("/x/<slug:s>", "/x/{s:slug}"),
        ("/x/<uuid:u>", "/x/{u:uuid}"),
        ("/x/<float:f>", "/x/{f:float}"),
        ("/<path:rest>", "/{rest:path}"),
        ("/a/{rest:path}/edit", "/a/{rest:path}/edit"),
        ("/docs/{page:path}.html", "/docs/{page:path}.html"),
        ("/files/{name}.json", "/files/{name}.json"),
        ("/v{version:int}/x", "/v{version:int}/x"),
        ("/compare/{base}...{head}", "/compare/{base}...{head}"),
        ("/items/{id}:cancel", "/items/{id}:cancel"),
        ("/mixed/{a}/<int:b>", "/mixed/{a}/{b:int}"),
        ("/caf\u00e9/100%", "/caf\u00e9/100%"),
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    """Every spelling of a template has one text, and reading it gives an equal value."""
    template = Template.parse(text)
    assert str(template) == expected
    assert template == Template.parse(expected)
    assert hash(template) == hash(Template.parse(expected))


@pytest.mark.parametrize(
    ("text", "found", "advice"),
    [
        ("", "''", "write '/'"),
        ("items/<int:pk>/", "does not begin with a slash", "write '/items/<int:pk>/'"),
        ("^items/$", "does not begin with a slash", "write"),
        ("/a//b", "an empty segment", "one slash"),
        ("//", "an empty segment", "one slash"),
        ("/a/./b", "the segment '.'", "the path that it leads to"),
        ("/a/../b", "the segment '..'", "the path that it leads to"),
        ("/{id", "unbalanced '{' at character 2", "{id}"),
        ("/id}", "unbalanced '}' at character 4", "{id}"),
        ("/<id", "unbalanced '<' at character 2", "{id}"),
        ("/a>b", "unbalanced '>' at character 3", "{id}"),
        ("/{a{b}}", "unbalanced '{' at character 2", "{id}"),
        ("/{id:[0-9]{3}}", "unbalanced '{'", "{id:int}"),
        ("/{id}/{id}", "two parameters 'id'", "'id_2'"),
        ("/{id}/<int:id>", "two parameters 'id'", "'id_2'"),
        ("/{id:integer}", "'integer' is unknown", "did you mean '{id:int}'?"),
        ("/{id:Int}", "'Int' is unknown", "did you mean '{id:int}'?"),
        ("/{id:zzz}", "'zzz' is unknown", "one of str, int, float, uuid, slug, path"),
        ("/{id:}", "'' is unknown", "expected one of"),
        ("/{int:id}", "'id' is unknown", "did you mean '{id:int}'?"),
        ("/<id:int>", "'id' is unknown", "did you mean '{id:int}'?"),
        ("/<int(min=1):id>", "'int(min=1)' is unknown", "'{id}' takes any segment"),
        ("/<any(a,b):x>", "'any(a,b)' is unknown", "'{x}' takes any segment"),
        ("/{}", "the parameter '{}'", "'{id}'"),
        ("/{ pk:int }", "the parameter '{ pk:int }'", "did you mean '{pk:int}'?"),
        ("/{1a:int}", "not an identifier", "'{id:int}'"),
        ("/{ pk }", "not an identifier", "'{pk}'"),
        ("/a?x=1", "'?' at character 3", "end it before the query"),
        ("/{id}#f", "'#' at character 6", "end it before the query or fragment"),
        ("/a\n", "'\\n' at character 3", "drop it"),
        ("/a\\b", "'\\\\' at character 3", "drop it"),
        ("/a\udc80", "'\\udc80' at character 3", "drop it"),
        ("/caf%C3%A9", "'%C3' at character 5", "write the character itself"),
        ("/v1/*", "'*' at character 5", "{rest:path}"),
        ("/items/:id", "the segment ':id'", "{id}"),
        ("/{a}{b}", "nothing separates", "put a literal between"),
        ("/{a:path}/x/{b:path}", "several path parameters", "{name}"),
        ("/x{p:path}", "shares its segment", "a segment of its own"),
        ("/{p:path}-{q}", "shares its segment", "a segment of its own"),
        ("/{a:int}-{b}.x", "not all are plain", "write '{a}-{b}.x'"),
    ],
)
def test_refused(text: str, found: str, advice: str) -> None:
    """A template that cannot be read is refused with what was found and what to write."""
    with pytest.raises(TemplateError) as caught:
        Template.parse(text)
    assert found in str(caught.value)
    assert advice in str(caught.value)
    assert str(caught.value).isprintable()
    assert isinstance(caught.value, MeterError)


def test_parts() -> None:
    """The value gives each segment's literals and parameters in order."""
    template = Template.parse("/v{major:int}/{name}.json")
    assert template.segments == (("v", Parameter("major", Kind.INT)), (Parameter("name"), ".json"))


@given(st.text("/{}<>:ainturh.*?%(-", max_size=16))
@settings(deadline=None, max_examples=500)
def test_reads_or_refuses(text: str) -> None:
    """Any text is read, and its normal form read back as itself, or refused; nothing else happens."""
    try:
        template = Template.parse("/" + text)
    except TemplateError:
        return
    assert Template.parse(str(template)) == template
